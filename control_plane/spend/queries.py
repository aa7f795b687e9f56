"""Reads of recorded spend, bound to one organisation."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Uuid, column, func, or_, select, true, tuple_, values

from control_plane.kernel.db import Session
from control_plane.kernel.pagination import Cursor
from control_plane.spend import rules
from control_plane.spend.filters import EventFilter
from control_plane.spend.models import BudgetWindow, CostEventKey, CostEventRevision, CostEventRow, ParkedEntry
from control_plane.spend.rules import WindowKey


@dataclass(frozen=True, slots=True)
class WindowSum:
    """One window as PostgreSQL has it. An end of 0 is never."""

    window_id: str
    end_ms: int
    settled: int


async def page(
    session: Session, org_id: UUID, wanted: EventFilter, *, limit: int, after: Cursor | None
) -> Sequence[CostEventRow]:
    """Newest first; one more than `limit` when there is another page."""
    event = CostEventRow
    query = select(event).where(event.org_id == org_id, *wanted.conditions())
    if after is not None:
        query = query.where(tuple_(event.occurred_at, event.event_id) < (after.created_at, after.id))
    query = query.order_by(event.occurred_at.desc(), event.event_id.desc()).limit(limit + 1)
    return (await session.scalars(query)).all()


async def get(session: Session, org_id: UUID, event_id: UUID) -> CostEventRow | None:
    """Found through its key, which knows its month."""
    return await session.scalar(
        select(CostEventRow)
        .join(
            CostEventKey,
            (CostEventKey.org_id == CostEventRow.org_id)
            & (CostEventKey.event_id == CostEventRow.event_id)
            & (CostEventKey.occurred_at == CostEventRow.occurred_at),
        )
        .where(CostEventKey.org_id == org_id, CostEventKey.event_id == event_id)
    )


async def revisions(session: Session, org_id: UUID, event_id: UUID) -> Sequence[CostEventRevision]:
    rows = await session.scalars(
        select(CostEventRevision)
        .where(CostEventRevision.org_id == org_id, CostEventRevision.event_id == event_id)
        .order_by(CostEventRevision.revision)
    )
    return rows.all()


async def last_used(session: Session, org_id: UUID, key_ids: Collection[UUID]) -> dict[UUID, datetime]:
    """When each key's newest call happened; keys without one are missing."""
    if not key_ids:
        return {}
    keys = values(column("id", Uuid), name="keys").data([(key_id,) for key_id in key_ids])
    newest = (
        select(CostEventRow.occurred_at)
        .where(CostEventRow.org_id == org_id, CostEventRow.api_key_id == keys.c.id)
        .order_by(CostEventRow.occurred_at.desc())
        .limit(1)
        .lateral()
    )
    rows = await session.execute(select(keys.c.id, newest.c.occurred_at).join(newest, true()))
    return {row.id: row.occurred_at for row in rows}


async def windows_since(session: Session, org_ids: Collection[UUID], ended_after_ms: int) -> list[WindowSum]:
    """The windows of these organisations that the ledger still keeps."""
    if not org_ids:
        return []
    rows = await session.scalars(
        select(BudgetWindow).where(
            BudgetWindow.org_id.in_(org_ids),
            or_(BudgetWindow.window_end_ms == 0, BudgetWindow.window_end_ms > ended_after_ms),
        )
    )
    return [WindowSum(_window_id(row), row.window_end_ms, row.settled_microdollars) for row in rows]


async def parked_count(session: Session) -> int:
    return await session.scalar(select(func.count()).select_from(ParkedEntry)) or 0


def _window_id(row: BudgetWindow) -> str:
    return rules.window_id(WindowKey(row.org_id, row.budget_id, row.scope_value, row.window_start_ms))
