"""The outbox: what must reach Redis is written in the transaction that changed it, and stays pending until it did.

A row names what changed and never how: the publisher reads the current state, so sending twice or late is harmless.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import ForeignKey, Identity, Index, func, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.kernel.db import Base, Session

Topic = Literal["grant", "limit", "version"]
"""`version` names no row: only the policy version is published."""
_ERROR_MAX: Final = 500
_BACKOFF: Final = text("now() + make_interval(secs => least(1, power(2, least(attempts, 5)) * 0.1))")


class OutboxRow(Base):
    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_pending", "next_at", postgresql_where=text("done_at IS NULL")),
        Index("ix_outbox_subject", "org_id", "subject_id", "id"),
    )

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    org_id: Mapped[UUID] = mapped_column(ForeignKey("organizations.id"))
    topic: Mapped[str]
    subject_id: Mapped[UUID]
    attempts: Mapped[int] = mapped_column(server_default="0")
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    done_at: Mapped[datetime | None]
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


@dataclass(frozen=True, slots=True)
class Pending:
    """One thing to publish. `attempts` counts the tries that failed."""

    id: int
    topic: str
    subject_id: UUID
    attempts: int


def enqueue(session: Session, org_id: UUID, topic: Topic, subject_id: UUID, *, attempts: int = 0) -> None:
    session.add(OutboxRow(org_id=org_id, topic=topic, subject_id=subject_id, attempts=attempts))


async def pending(session: Session, org_id: UUID) -> list[Pending]:
    """Everything of an organisation that is not published, oldest first, due or not."""
    rows = await session.execute(
        select(OutboxRow.id, OutboxRow.topic, OutboxRow.subject_id, OutboxRow.attempts)
        .where(OutboxRow.org_id == org_id, OutboxRow.done_at.is_(None))
        .order_by(OutboxRow.id)
    )
    return [Pending(*row) for row in rows]


async def organisations_due(session: Session) -> list[UUID]:
    rows = await session.scalars(
        select(OutboxRow.org_id).where(OutboxRow.done_at.is_(None), OutboxRow.next_at <= func.now()).distinct()
    )
    return list(rows)


async def mark_done(session: Session, rows: Sequence[Pending]) -> None:
    await session.execute(
        update(OutboxRow).where(OutboxRow.id.in_([row.id for row in rows])).values(done_at=func.now(), last_error=None)
    )


async def mark_failed(session: Session, org_id: UUID, error: str) -> None:
    """The next try waits longer, up to a second: when Redis is back, the change is in force within one more."""
    await session.execute(
        update(OutboxRow)
        .where(OutboxRow.org_id == org_id, OutboxRow.done_at.is_(None))
        .values(attempts=OutboxRow.attempts + 1, next_at=_BACKOFF, last_error=error[:_ERROR_MAX])
    )


async def published_at(session: Session, org_id: UUID, subject_ids: Sequence[UUID]) -> dict[UUID, datetime | None]:
    """When each subject's newest change was published; None while it is pending. A pruned subject is missing."""
    newest = (
        select(OutboxRow.subject_id, OutboxRow.done_at)
        .where(OutboxRow.org_id == org_id, OutboxRow.subject_id.in_(subject_ids))
        .ext(distinct_on(OutboxRow.subject_id))
        .order_by(OutboxRow.subject_id, OutboxRow.id.desc())
    )
    return {row.subject_id: row.done_at for row in await session.execute(newest)}


async def oldest_pending_s(session: Session) -> float:
    """Age of the oldest unpublished change in seconds; 0 when there is none."""
    age = await session.scalar(
        select(func.extract("epoch", func.now() - func.min(OutboxRow.created_at))).where(OutboxRow.done_at.is_(None))
    )
    return float(age or 0.0)


async def prune(session: Session) -> None:
    """Published rows are kept for a month."""
    await session.execute(text("DELETE FROM outbox WHERE done_at < now() - interval '30 days'"))
