"""What a worker is told by its environment (`NULLSPEND_*`), read once at boot and validated with a clear message."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

N = TypeVar("N", int, float)
Unpriced = Literal["deny", "allow"]

UPSTREAMS: Final = {
    "openai": ("NULLSPEND_UPSTREAM_OPENAI", "https://api.openai.com"),
    "anthropic": ("NULLSPEND_UPSTREAM_ANTHROPIC", "https://api.anthropic.com"),
    "google": ("NULLSPEND_UPSTREAM_GOOGLE", "https://generativelanguage.googleapis.com"),
}


class SettingsError(Exception):
    """A setting is missing or unusable; the message names it and says what it should look like."""


@dataclass(frozen=True, slots=True)
class Settings:
    redis_url: str
    host: str = "127.0.0.1"
    port: int = 8787
    upstreams: tuple[tuple[str, str], ...] = tuple((name, default) for name, (_, default) in UPSTREAMS.items())
    """Provider id to base URL."""
    unpriced: Unpriced = "deny"
    """What happens to a call whose model has no price: refused, or passed uncharged when no budget applies."""
    lease_s: float = 60.0
    """How long a hold outlives its worker before it is charged."""
    reserve_timeout_s: float = 0.25
    drain_s: float = 600.0
    body_bytes_max: int = 32 * 1024 * 1024
    ops_secret: str | None = None
    worker: str = "0"

    @property
    def lease_ms(self) -> int:
        return int(self.lease_s * 1000)


_DEFAULTS: Final = Settings(redis_url="")


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment. Raises SettingsError."""
    env = os.environ if environment is None else environment
    redis_url = env.get("NULLSPEND_REDIS_URL", "")
    if urlsplit(redis_url).scheme not in {"redis", "rediss", "unix"}:
        raise SettingsError("NULLSPEND_REDIS_URL must be redis://, rediss:// or unix:// (the ledger lives there)")
    unpriced = env.get("NULLSPEND_UNPRICED", "deny")
    if unpriced not in {"deny", "allow"}:
        raise SettingsError("NULLSPEND_UNPRICED must be deny or allow")
    return Settings(
        redis_url=redis_url,
        host=env.get("NULLSPEND_HOST", _DEFAULTS.host),
        port=_number(env, "NULLSPEND_PORT", _DEFAULTS.port, int, between=(0, 65_535)),
        upstreams=tuple((name, _base(env, *spec)) for name, spec in UPSTREAMS.items()),
        unpriced="allow" if unpriced == "allow" else "deny",
        lease_s=_number(env, "NULLSPEND_LEASE_SECONDS", _DEFAULTS.lease_s, float, between=(1, 3600)),
        reserve_timeout_s=_number(
            env, "NULLSPEND_RESERVE_TIMEOUT_SECONDS", _DEFAULTS.reserve_timeout_s, float, between=(0.01, 30)
        ),
        drain_s=_number(env, "NULLSPEND_DRAIN_SECONDS", _DEFAULTS.drain_s, float, between=(0, 3600)),
        body_bytes_max=_number(
            env, "NULLSPEND_PROXY_BODY_BYTES_MAX", _DEFAULTS.body_bytes_max, int, between=(1024, 1 << 30)
        ),
        ops_secret=env.get("NULLSPEND_OPS_SECRET") or None,
        worker=env.get("NULLSPEND_WORKER", _DEFAULTS.worker),
    )


def _number(
    env: Mapping[str, str], name: str, default: N, kind: Callable[[str], N], *, between: tuple[float, float]
) -> N:
    text = env.get(name)
    if text is None:
        return default
    try:
        value = kind(text)
    except ValueError:
        value = None
    low, high = between
    if value is None or not low <= value <= high:
        raise SettingsError(f"{name} must be a number from {low} to {high}, not {text!r}")
    return value


def _base(env: Mapping[str, str], name: str, default: str) -> str:
    """A provider's base URL: http or https, a host, no query; a trailing slash is cut."""
    base = env.get(name, default).rstrip("/")
    parts = urlsplit(base)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise SettingsError(f"{name} must be a base URL like {default}, not {base!r}")
    return base
