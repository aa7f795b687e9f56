"""Reads of budgets, bound to one organisation."""

from collections.abc import Sequence
from typing import cast
from uuid import UUID

from sqlalchemy import select, tuple_

from control_plane.budgets.models import BudgetRow
from control_plane.budgets.rules import Entity
from control_plane.kernel import times
from control_plane.kernel.db import Session
from control_plane.kernel.pagination import Cursor
from shared.budgets import Budget, EntityType
from shared.windows import Alignment, Period, Window


async def get(session: Session, org_id: UUID, budget_id: UUID, *, lock: bool = False) -> BudgetRow | None:
    """A budget of any state."""
    query = select(BudgetRow).where(BudgetRow.org_id == org_id, BudgetRow.id == budget_id)
    return await session.scalar(query.with_for_update(key_share=True) if lock else query)


async def live_of(session: Session, org_id: UUID, entity: Entity, *, slot: str = "default") -> BudgetRow | None:
    """The live budget of an entity, locked."""
    return await session.scalar(
        select(BudgetRow)
        .where(
            BudgetRow.org_id == org_id,
            BudgetRow.entity_type == entity.type,
            BudgetRow.entity_id == entity.id,
            BudgetRow.slot == slot,
            BudgetRow.archived_at.is_(None),
        )
        .with_for_update(key_share=True)
    )


async def page(
    session: Session,
    org_id: UUID,
    *,
    entity_type: str | None,
    entity_id: str | None,
    archived: bool,
    limit: int | None,
    after: Cursor | None,
) -> Sequence[BudgetRow]:
    """Newest first; one more than `limit` when there is another page, all of them without a limit."""
    query = select(BudgetRow).where(BudgetRow.org_id == org_id, BudgetRow.archived_at.is_not(None) == archived)
    if entity_type is not None:
        query = query.where(BudgetRow.entity_type == entity_type)
    if entity_id is not None:
        query = query.where(BudgetRow.entity_id == entity_id)
    if after is not None:
        query = query.where(tuple_(BudgetRow.created_at, BudgetRow.id) < (after.created_at, after.id))
    query = query.order_by(BudgetRow.created_at.desc(), BudgetRow.id.desc())
    return (await session.scalars(query if limit is None else query.limit(limit + 1))).all()


async def by_id(session: Session, org_id: UUID, budget_ids: Sequence[UUID] | None) -> Sequence[BudgetRow]:
    """Budgets of any state; all of the organisation when no ids are given."""
    query = select(BudgetRow).where(BudgetRow.org_id == org_id)
    if budget_ids is not None:
        query = query.where(BudgetRow.id.in_(budget_ids))
    return (await session.scalars(query.order_by(BudgetRow.id))).all()


async def live_of_entities(session: Session, org_id: UUID, entities: set[Entity]) -> dict[Entity, list[Budget]]:
    """Every given entity with its live budgets, as they are published."""
    found: dict[Entity, list[Budget]] = {entity: [] for entity in entities}
    if entities:
        rows = await session.scalars(
            select(BudgetRow)
            .where(
                BudgetRow.org_id == org_id,
                BudgetRow.archived_at.is_(None),
                tuple_(BudgetRow.entity_type, BudgetRow.entity_id).in_([(e.type, e.id) for e in entities]),
            )
            .order_by(BudgetRow.id)
        )
        for row in rows:
            found[Entity(row.entity_type, row.entity_id)].append(published(row))
    return found


def window_of(row: BudgetRow) -> Window:
    return Window(
        period=cast("Period", row.period),
        alignment=cast("Alignment", row.alignment),
        timezone=row.timezone,
        anchor_ms=0 if row.anchor_at is None else times.to_ms(row.anchor_at),
        reset_at_ms=0 if row.reset_at is None else times.to_ms(row.reset_at),
    )


def published(row: BudgetRow) -> Budget:
    """A row in the vocabulary of both planes."""
    return Budget(
        id=str(row.id),
        entity_type=cast("EntityType", row.entity_type),
        entity_id=row.entity_id,
        window=window_of(row),
        version=row.version,
    )
