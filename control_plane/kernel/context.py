"""What every route may use: the stores, the ledger's client, and doors to slices the caller may not import."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Request

from control_plane.kernel.caller import Credential
from control_plane.kernel.db import Database, Session
from control_plane.kernel.publication import GrantsOf
from control_plane.kernel.redis import RedisServer
from control_plane.settings import Settings
from shared.ledger.redis import RedisLedger


@dataclass(frozen=True, slots=True)
class Context:
    """Made once per process, by `wiring`."""

    settings: Settings
    database: Database
    redis: RedisServer
    ledger: RedisLedger
    credential_of: Callable[[bytes], Awaitable[Credential | None]]
    publish: Callable[[UUID], Awaitable[bool]]
    """Sends everything an organisation's outbox holds to Redis; False when that is left to the worker."""
    key_exists: Callable[[Session, UUID, UUID], Awaitable[bool]]
    """Whether an organisation has a live key of this id."""
    key_names: Callable[[Session, UUID], Awaitable[dict[UUID, str]]]
    grants_of: GrantsOf


def context_of(request: Request) -> Context:
    return cast("Context", request.app.state.context)


Here = Annotated[Context, Depends(context_of)]
