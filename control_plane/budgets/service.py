"""Creating, changing, resetting and archiving budgets. Each ends with an outbox row in the same transaction."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from sqlalchemy import func

from control_plane.budgets import queries, rules
from control_plane.budgets.models import BudgetRow
from control_plane.budgets.rules import Entity, WindowSpec
from control_plane.kernel import errors, outbox, times
from control_plane.kernel.db import Session
from control_plane.orgs import service as orgs
from shared.ids import uuid7
from shared.windows import Alignment, Period


@dataclass(frozen=True, slots=True)
class Change:
    """What a caller asks for. None keeps what is, and means the default for a new budget; a cleared interval is `none`.

    An anniversary without an anchor counts from its creation.
    """

    limit_microdollars: int | None = None
    period: Period | None = None
    alignment: Alignment | None = None
    timezone: str | None = None
    anchor_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Upserted:
    row: BudgetRow
    created: bool


async def upsert(session: Session, org_id: UUID, entity: Entity, change: Change, *, org_timezone: str) -> Upserted:
    """The live budget of an entity, made or changed. Raises 400 as `change` and `create` do."""
    await orgs.bump_policy_version(session, org_id)
    row = await queries.live_of(session, org_id, entity)
    if row is not None:
        return Upserted(await _apply(session, row, change), created=False)
    if change.limit_microdollars is None:
        raise errors.invalid(["maxBudgetMicrodollars"], "a new budget needs a limit")
    spec = _definition(WindowSpec(timezone=org_timezone), change)
    row = BudgetRow(
        id=UUID(uuid7()),
        org_id=org_id,
        entity_type=entity.type,
        entity_id=entity.id,
        limit_microdollars=change.limit_microdollars,
        period=spec.period,
        alignment=spec.alignment,
        timezone=spec.timezone,
        anchor_at=None if spec.anchor_ms is None else times.from_ms(spec.anchor_ms),
    )
    session.add(row)
    return Upserted(await _changed(session, row), created=True)


async def change(session: Session, org_id: UUID, budget_id: UUID, change: Change) -> BudgetRow:
    """Changes a live budget. Raises 404, or 400 for another window definition."""
    await orgs.bump_policy_version(session, org_id)
    return await _apply(session, await _live(session, org_id, budget_id), change)


async def reset(session: Session, org_id: UUID, budget_id: UUID, now_ms: int) -> BudgetRow:
    """Opens a new window at `now_ms`, the ledger's time; what was held or spent stays in the old one."""
    await orgs.bump_policy_version(session, org_id)
    row = await _live(session, org_id, budget_id)
    if row.reset_at is None or times.to_ms(row.reset_at) < now_ms:
        row.reset_at = times.from_ms(now_ms)
    row.version += 1
    return await _changed(session, row)


async def archive(session: Session, org_id: UUID, budget_id: UUID) -> BudgetRow:
    """Ends a budget: it refuses nothing any more, and open holds still settle into it."""
    await orgs.bump_policy_version(session, org_id)
    row = await _live(session, org_id, budget_id)
    row.archived_at = func.now()
    row.version += 1
    return await _changed(session, row)


async def _live(session: Session, org_id: UUID, budget_id: UUID) -> BudgetRow:
    row = await queries.get(session, org_id, budget_id, lock=True)
    if row is None or row.archived_at is not None:
        raise errors.not_found("budget")
    return row


async def _apply(session: Session, row: BudgetRow, change: Change) -> BudgetRow:
    old = _spec(row)
    moved = rules.changed_definition(old, _definition(old, change))
    if moved:
        message = (
            "the window of an existing budget cannot be changed: spend is counted per window, so another definition "
            "would start at zero and forget what was spent; archive this budget and create it anew"
        )
        raise errors.invalid_fields([{"path": [name], "message": message} for name in moved])
    if change.limit_microdollars is not None:
        row.limit_microdollars = change.limit_microdollars
    row.version += 1
    return await _changed(session, row)


def _definition(base: WindowSpec, change: Change) -> WindowSpec:
    """`base` with what the caller asks for. Raises 400 for what nothing would use."""
    period = base.period if change.period is None else change.period
    alignment = base.alignment if change.alignment is None else change.alignment
    if alignment == "anniversary" and period == "none":
        raise errors.invalid(["windowMode"], "anniversary needs a resetInterval: without one nothing recurs")
    if alignment == "calendar" and change.anchor_at is not None:
        raise errors.invalid(["anchorAt"], "is used by windowMode anniversary only")
    anchor_ms = base.anchor_ms if change.anchor_at is None else times.to_ms(change.anchor_at)
    if alignment == "anniversary" and anchor_ms is None:
        anchor_ms = times.to_ms(datetime.now(UTC))
    return WindowSpec(period, alignment, change.timezone or base.timezone, anchor_ms)


def _spec(row: BudgetRow) -> WindowSpec:
    return WindowSpec(
        period=cast("Period", row.period),
        alignment=cast("Alignment", row.alignment),
        timezone=row.timezone,
        anchor_ms=None if row.anchor_at is None else times.to_ms(row.anchor_at),
    )


async def _changed(session: Session, row: BudgetRow) -> BudgetRow:
    outbox.enqueue(session, row.org_id, "limit", row.id)
    await session.flush()
    await session.refresh(row)
    return row


async def republish(session: Session, org_id: UUID, budget_id: UUID, published_version: int) -> None:
    """Queues a budget whose publication is damaged, at a version that wins over what is there."""
    await orgs.bump_policy_version(session, org_id)
    row = await queries.get(session, org_id, budget_id, lock=True)
    if row is not None:
        row.version = max(row.version, published_version) + 1
        await _changed(session, row)
