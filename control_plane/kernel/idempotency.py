"""Idempotency-Key: the response of a write is stored in the write's own transaction and given again to a repetition.

Looked up after authentication, under (organisation, route, key); 24 hours.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from fastapi import Request
from sqlalchemy import ForeignKey, Index, Integer, LargeBinary, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.kernel.caller import Caller
from control_plane.kernel.db import Base, Session
from shared.errors import RequestRefusal, Unavailable

_KEPT: Final = timedelta(hours=24)
_KEY_MAX: Final = 256


class IdempotencyRow(Base):
    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_expires_at", "expires_at"),)

    org_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"), primary_key=True)
    route: Mapped[str] = mapped_column(primary_key=True)
    key_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    principal_id: Mapped[UUID]
    body_hash: Mapped[bytes] = mapped_column(LargeBinary)
    status: Mapped[int] = mapped_column(Integer)
    response: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that carries a key."""

    org_id: UUID
    route: str
    key_hash: bytes
    body_hash: bytes
    principal_id: UUID


@dataclass(frozen=True, slots=True)
class Stored:
    status: int
    body: dict[str, Any]


async def attempt_of(request: Request, caller: Caller) -> Attempt | None:
    """None without the header. Raises 400 for a key that is too long or not printable ASCII."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= _KEY_MAX or not key.isascii() or not key.isprintable():
        message = f"Idempotency-Key must be 1 to {_KEY_MAX} printable ASCII characters."
        raise RequestRefusal(400, "invalid_idempotency_key", message)
    body = await request.body()
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) if body else b""
    return Attempt(
        org_id=caller.org_id,
        route=f"{request.method} {request.url.path}",
        key_hash=hashlib.sha256(key.encode()).digest(),
        body_hash=hashlib.sha256(canonical).digest(),
        principal_id=caller.key_id,
    )


async def replay(session: Session, attempt: Attempt) -> Stored | None:
    """The stored response; None when this is the first call, which then holds the key until its transaction ends.

    Raises 409 when the key was used with another body, 503 while the first call is still running.
    """
    lock = int.from_bytes(
        hashlib.sha256(attempt.org_id.bytes + attempt.route.encode() + attempt.key_hash).digest()[:8], signed=True
    )
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise Unavailable("request_in_progress", "The first request with this Idempotency-Key is still running.", 1)
    row = await session.scalar(
        select(IdempotencyRow).where(
            IdempotencyRow.org_id == attempt.org_id,
            IdempotencyRow.route == attempt.route,
            IdempotencyRow.key_hash == attempt.key_hash,
            IdempotencyRow.expires_at > func.now(),
        )
    )
    if row is None:
        return None
    if row.body_hash != attempt.body_hash:
        message = "This Idempotency-Key was used with another body: use a new key for a new request."
        raise RequestRefusal(409, "idempotency_conflict", message)
    return Stored(row.status, row.response)


async def remember(session: Session, attempt: Attempt, stored: Stored) -> None:
    """Commits with the effect; an expired record of the same key is replaced."""
    values: dict[str, Any] = {
        "principal_id": attempt.principal_id,
        "body_hash": attempt.body_hash,
        "status": stored.status,
        "response": stored.body,
        "expires_at": datetime.now(UTC) + _KEPT,
    }
    insertion = insert(IdempotencyRow).values(
        org_id=attempt.org_id, route=attempt.route, key_hash=attempt.key_hash, **values
    )
    await session.execute(insertion.on_conflict_do_update(constraint="pk_idempotency_keys", set_=values))


async def amend(session: Session, attempt: Attempt, body: dict[str, Any]) -> None:
    """Adds what became known after the commit (that the change is published)."""
    await session.execute(
        update(IdempotencyRow)
        .where(
            IdempotencyRow.org_id == attempt.org_id,
            IdempotencyRow.route == attempt.route,
            IdempotencyRow.key_hash == attempt.key_hash,
        )
        .values(response=body)
    )


async def prune(session: Session) -> None:
    await session.execute(delete(IdempotencyRow).where(text("expires_at < now()")))
