"""Settings of the control plane: validated at boot, with messages that help and repeat no secret."""

import pytest

from control_plane.settings import Settings, SettingsError

GOOD = {
    "NULLSPEND_DATABASE_URL": "postgresql://user:pw@/nullspend?host=/run/pg&port=5432",
    "NULLSPEND_REDIS_URL": "unix://:pw@/run/valkey.sock",
}


def read(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in {**GOOD, **environment}.items():
        monkeypatch.setenv(name, value)
    return Settings.read()


def test_the_environment_is_read_and_the_rest_has_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, NULLSPEND_CONTROL_PORT="9000", NULLSPEND_OPS_SECRET="hush")
    assert (settings.control_host, settings.control_port, settings.control_worker) == ("127.0.0.1", 9000, "inline")
    assert settings.ops_secret is not None
    assert settings.ops_secret.get_secret_value() == "hush"
    assert "hush" not in repr(settings)
    assert "pw@" not in repr(settings)


def test_an_empty_ops_secret_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, NULLSPEND_OPS_SECRET="").ops_secret is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NULLSPEND_DATABASE_URL", "mysql://u:hush@h/d"),
        ("NULLSPEND_REDIS_URL", "http://u:hush@h"),
        ("NULLSPEND_CONTROL_PORT", "70000"),
        ("NULLSPEND_CONTROL_PORT", "hush"),
        ("NULLSPEND_CONTROL_WORKER", "maybe"),
        ("NULLSPEND_CONSUMER", "a b"),
        ("NULLSPEND_STREAM_KEEP_S", "0"),
        ("NULLSPEND_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_setting_is_named_and_its_value_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(monkeypatch, **{name: value})
    assert str(caught.value).startswith(f"{name}: ")
    assert "hush" not in str(caught.value)


def test_everything_that_is_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError) as caught:
        Settings.read()
    assert str(caught.value).splitlines() == [f"{name}: is required" for name in GOOD]
