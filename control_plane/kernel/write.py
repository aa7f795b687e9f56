"""One write request: effect, outbox row and idempotency record commit together; then the change is published.

The client's answer waits for the publication (bounded), so that a 200 means "in force" unless it says otherwise.
"""

import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi import Request, Response

from control_plane.kernel import idempotency, times
from control_plane.kernel.caller import Caller
from control_plane.kernel.context import Context
from control_plane.kernel.db import DatabaseUnavailable, Session
from control_plane.kernel.http import json_response
from control_plane.kernel.idempotency import Attempt, Stored

UNPUBLISHED = {"X-NullSpend-Warning": "unpublished"}
"""The change is committed and will be in force as soon as Redis can be reached."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a write answers. `data` is the envelope's; `secret` is shown once and never stored."""

    status: int
    data: dict[str, Any]
    secret: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    """Beside `data` in the envelope."""


async def write(
    request: Request, caller: Caller, context: Context, effect: Callable[[Session], Awaitable[Written]]
) -> Response:
    """Runs `effect` in a transaction, once per Idempotency-Key, and publishes what it changed."""
    attempt = await idempotency.attempt_of(request, caller)
    async with context.database.transaction() as session:
        if attempt is not None:
            stored = await idempotency.replay(session, attempt)
            if stored is not None:
                return json_response(stored.body, stored.status, {"X-Idempotent-Replayed": "true"})
        written = await effect(session)
        body = {"data": written.data, **written.extra}
        if attempt is not None:
            kept = {"data": {**written.data, **dict.fromkeys(written.secret)}, **written.extra}
            await idempotency.remember(session, attempt, Stored(written.status, kept))
    published = await context.publish(caller.org_id)
    if published:
        await _note_publication(context, attempt, body, written.secret)
    body["data"] = {**body["data"], **written.secret}
    return json_response(body, written.status, None if published else UNPUBLISHED)


async def _note_publication(
    context: Context, attempt: Attempt | None, body: dict[str, Any], secret: dict[str, str]
) -> None:
    """`enforcement.publishedAt` in the answer, and in what a repetition is answered with."""
    if "enforcement" not in body["data"]:
        return
    body["data"] = copy.deepcopy(body["data"])
    body["data"]["enforcement"]["publishedAt"] = times.iso(datetime.now(UTC))
    if attempt is None:
        return
    kept = {**body, "data": {**body["data"], **dict.fromkeys(secret)}}
    try:
        async with context.database.transaction() as session:
            await idempotency.amend(session, attempt, kept)
    except DatabaseUnavailable:
        pass  # the repetition then says "not known to be published", which is true
