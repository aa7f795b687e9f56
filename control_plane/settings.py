"""What a control-plane process is told by its environment (`NULLSPEND_*`): read once at boot, validated, passed in."""

import re
import socket
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.redis_url import parse_redis_url

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


class SettingsError(Exception):
    """A setting is missing or unusable. The message names it, says what it should look like and repeats no value."""


class Settings(BaseSettings):
    """All settings of the control plane. Secrets never appear in a message or a repr."""

    model_config = SettingsConfigDict(env_prefix="NULLSPEND_", frozen=True, hide_input_in_errors=True, extra="ignore")

    database_url: str = Field(repr=False)
    redis_url: str = Field(repr=False)
    control_host: str = "127.0.0.1"
    control_port: Port = 8788
    control_worker: Literal["inline", "off"] = "inline"
    """`off` serves HTTP only; `python -m control_plane.worker` then runs the background work elsewhere."""
    consumer: str = Field(default_factory=socket.gethostname)
    """Names this process in the ingest group: stable over restarts, different for each replica."""
    ops_secret: SecretStr | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    body_bytes_max: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 1024 * 1024
    database_pool: Annotated[int, Field(ge=2, le=200)] = 10
    publish_timeout_s: Seconds = 2.0
    """How long a request waits for its change to reach Redis; after that the worker's outbox sees to it."""
    ingest_batch: Annotated[int, Field(ge=1, le=5000)] = 500
    sweep_every_s: Seconds = 5.0
    stream_keep_s: Seconds = 60.0
    """Acknowledged stream entries stay at least this long, because the audit compares with them."""
    commit_sha: str | None = None
    commit_ref: str | None = None
    env: str = "production"
    deployed_at: str | None = None

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        if urlsplit(url).scheme not in {"postgresql", "postgres"}:
            raise ValueError("must be a PostgreSQL URL like postgresql://user:password@host:5432/database")
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str) -> str:
        parse_redis_url(url)
        return url

    @field_validator("consumer")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if re.fullmatch(r"[A-Za-z0-9_._:-]{1,200}", name) is None:
            raise ValueError("must be 1 to 200 letters, digits or _ . : -")
        return name

    @field_validator("ops_secret", mode="after")
    @classmethod
    def _empty_is_none(cls, secret: SecretStr | None) -> SecretStr | None:
        return secret if secret is not None and secret.get_secret_value() else None

    @classmethod
    def read(cls) -> Self:
        """Settings from the environment. Raises SettingsError."""
        try:
            return cls()  # the environment brings them
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for issue in error.errors(include_url=False, include_input=False, include_context=False):
        name = "NULLSPEND_" + "_".join(str(part) for part in issue["loc"]).upper()
        reason = "is required" if issue["type"] == "missing" else issue["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {reason}")
    return "\n".join(lines)
