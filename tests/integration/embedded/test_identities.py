"""PostgreSQL refuses root and users without a name: the routes around that, from root and from other users."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded import EmbeddedStack, Options
from deploy.embedded.process import Command, Identity, run
from tests.integration.embedded.support import (
    Launcher,
    command_line,
    copy_wheels,
    execute,
    is_alive,
    uid_of,
    valkey_at,
    value,
    wait_until,
)

NOBODY = pwd.getpwnam("nobody")
NAMELESS_UID = 54321

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take the routes that root needs")


def namespaces_allowed() -> bool:
    inside = Identity("namespace", NOBODY.pw_uid, NOBODY.pw_gid)
    return run(Command(Path("/bin/true"), (), inside, cwd=Path("/"))).code == 0


@cache
def python_for_anyone() -> str | None:
    """An interpreter that another user can execute; the one that runs the tests may lie in a private home."""
    names = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
    folders = (None, "/usr/local/bin:/usr/bin")
    for python in (sys.executable, *(shutil.which(name, path=folder) for folder in folders for name in names)):
        check = "import sys, ctypes; sys.exit(sys.version_info < (3, 11))"
        try:
            if (
                python
                and subprocess.run([python, "-c", check], user=NOBODY.pw_uid, check=False, cwd="/").returncode == 0
            ):
                return python
        except PermissionError:
            continue
    return None


@pytest.fixture
def as_user(public_site: Path, passable_dir: Path) -> Iterator[Callable[..., Launcher]]:
    """Starts launchers as another user, from a copy of the code that this user can read."""
    python = python_for_anyone()
    if python is None:
        pytest.skip("there is no Python >= 3.11 here that another user can execute")
    started: list[Launcher] = []

    def start(uid: int, data_dir: Path, *, forbid_namespaces: bool = False, **options: Any) -> Launcher:
        how: dict[str, Any] = {"python": python, "path": [public_site], "forbid_namespaces": forbid_namespaces}
        started.append(Launcher(data_dir, options, uid=uid, **how))
        return started[-1]

    yield start
    for launcher in started:
        launcher.close()


@pytest.fixture
def private_home(private_dir: Path) -> Path:
    """A home of mode 0700 with the wheels installed below it."""
    copy_wheels(private_dir / "site")
    return private_dir


@pytest.fixture
def from_home(private_home: Path, passable_dir: Path) -> Iterator[Callable[..., Launcher]]:
    """Starts launchers whose wheels and data lie in the private home."""
    started: list[Launcher] = []

    def start(*, forbid_namespaces: bool = False, **options: Any) -> Launcher:
        path = [private_home / "site"]
        launcher = Launcher(private_home / "data", options, path=path, umask=0o077, forbid_namespaces=forbid_namespaces)
        started.append(launcher)
        return launcher

    yield start
    for launcher in started:
        launcher.close()


def use_and_stop(launcher: Launcher) -> None:
    execute(launcher.await_ready().told["database_url"], "CREATE TABLE IF NOT EXISTS kept ()")
    with valkey_at(launcher.told["redis_url"]) as valkey:
        assert valkey.ping()
    assert launcher.ask("stop") == {"stopped": True}


@as_root
def test_root_with_everything_in_its_private_home_uses_a_namespace_and_touches_no_mode(
    from_home: Callable[..., Launcher], private_home: Path
) -> None:
    if not namespaces_allowed():
        pytest.skip("user namespaces are forbidden here")
    launcher = from_home().await_ready()
    pid = launcher.server_pid("postgres")
    assert command_line(pid)[0].startswith(str(private_home / "site"))
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == [str(NOBODY.pw_uid), "0", "1"]
    assert uid_of(pid) == 0
    # Nobody in its own eyes, it has no privilege left in ours.
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()
    use_and_stop(launcher)
    assert stat.S_IMODE(private_home.stat().st_mode) == 0o700
    assert {path.lstat().st_uid for path in (private_home / "data").rglob("*")} == {0}
    use_and_stop(from_home())


@as_root
def test_root_without_namespaces_runs_postgres_as_nobody_from_copies_it_can_reach(
    passable_dir: Path, from_home: Callable[..., Launcher], private_home: Path
) -> None:
    state_dir = passable_dir / "state"
    options = {"user_namespaces": False, "state_dir": state_dir}
    launcher = from_home(**options).await_ready()
    pid = launcher.server_pid("postgres")
    assert uid_of(pid) == NOBODY.pw_uid
    assert command_line(pid)[0].startswith(str(state_dir / "postgres-binaries-"))
    use_and_stop(launcher)
    cluster = private_home / "data" / "postgres"
    assert cluster.is_symlink()
    assert cluster.resolve().is_relative_to(state_dir)
    assert stat.S_IMODE(private_home.stat().st_mode) == 0o700
    again = from_home(**options).await_ready()
    assert value(again.told["database_url"], "SELECT count(*) FROM kept") == 0
    again.kill()
    wait_until(lambda: not any(map(is_alive, again.server_pids)), "the servers followed their launcher")
    # Forbidden as containers forbid it, the namespace is tried and this same route is found.
    in_container = from_home(forbid_namespaces=True, state_dir=state_dir).await_ready()
    assert uid_of(in_container.server_pid("postgres")) == NOBODY.pw_uid
    use_and_stop(in_container)
    assert len(list(state_dir.iterdir())) == 2, "one copy of the binaries, one cluster"


@as_root
def test_nobody_works_in_the_data_directory_itself_where_it_can_reach_it(passable_dir: Path) -> None:
    data_dir = passable_dir / "data"
    options = Options(user_namespaces=False, state_dir=passable_dir / "state", durable=False)
    with EmbeddedStack(data_dir, options=options) as stack:
        execute(stack.database_url, "CREATE TABLE kept ()")
        assert not (data_dir / "postgres").is_symlink()
        assert (data_dir / "postgres").stat().st_uid == NOBODY.pw_uid
        assert not list(passable_dir.glob("state/*-*-*/PG_VERSION"))


@as_root
def test_data_follows_when_the_route_changes(passable_dir: Path) -> None:
    for earlier_runs, allowed in enumerate((True, False, True)):
        options = Options(user_namespaces=allowed, state_dir=passable_dir / "state", durable=False)
        with EmbeddedStack(passable_dir / "data", valkey=False, options=options) as stack:
            execute(stack.database_url, "CREATE TABLE IF NOT EXISTS kept (run int)")
            assert value(stack.database_url, "SELECT count(*) FROM kept") == earlier_runs
            execute(stack.database_url, f"INSERT INTO kept VALUES ({earlier_runs})")


@as_root
def test_root_does_not_take_over_the_data_of_an_ordinary_user(
    as_user: Callable[..., Launcher], passable_dir: Path
) -> None:
    home = passable_dir / "home"
    home.mkdir()
    os.chown(home, NAMELESS_UID, NAMELESS_UID)
    for server in ("postgres", "valkey"):
        data_dir = home / server
        folder = data_dir / server
        folder.mkdir(parents=True)
        (folder / "PG_VERSION").write_text("18\n")
        os.chown(folder, NAMELESS_UID, NAMELESS_UID)
        launcher = as_user(0, data_dir)
        assert f"{server} belongs to uid {NAMELESS_UID}: start NullSpend as that user" in launcher.listen()["error"]
        assert folder.stat().st_uid == NAMELESS_UID


@as_root
def test_an_ordinary_user_needs_no_route_at_all(as_user: Callable[..., Launcher], passable_dir: Path) -> None:
    home = passable_dir / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    launcher = as_user(NOBODY.pw_uid, home / "data").await_ready()
    assert {uid_of(pid) for pid in launcher.server_pids} == {NOBODY.pw_uid}
    pid = launcher.server_pid("postgres")
    assert Path(f"/proc/{pid}/uid_map").read_text() == Path("/proc/self/uid_map").read_text()
    use_and_stop(launcher)
    crashed = as_user(NOBODY.pw_uid, home / "data").await_ready()
    for killed in (*crashed.server_pids, crashed.pid):
        os.kill(killed, 9)
    crashed.process.wait()
    use_and_stop(as_user(NOBODY.pw_uid, home / "data"))


@as_root
def test_a_folder_on_path_that_a_user_may_not_enter_is_passed_over(
    as_user: Callable[..., Launcher], passable_dir: Path, private_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = passable_dir / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    monkeypatch.setenv("PATH", str(private_dir))
    as_user(NOBODY.pw_uid, home / "data", lookup=["system", "wheel"]).await_ready()


@as_root
def test_a_user_without_a_name_gets_one_in_a_namespace_or_a_sentence(
    as_user: Callable[..., Launcher], passable_dir: Path
) -> None:
    home = passable_dir / "home"
    home.mkdir()
    os.chown(home, NAMELESS_UID, NAMELESS_UID)
    refused = as_user(NAMELESS_UID, home / "refused", user_namespaces=False)
    assert (
        "it refuses this user. Start NullSpend as an ordinary user with a name in /etc/passwd"
        in refused.listen()["error"]
    )
    forbidden = as_user(NAMELESS_UID, home / "refused", forbid_namespaces=True)
    assert "a user namespace is not allowed here" in forbidden.listen()["error"]
    if namespaces_allowed():
        use_and_stop(as_user(NAMELESS_UID, home / "data"))
