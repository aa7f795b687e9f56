"""The numbers of budgets as the ledger has them now: never from the database, never guessed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from control_plane.budgets import queries
from control_plane.budgets.models import BudgetRow
from shared.ledger import Read
from shared.ledger.redis import RedisLedger

_BATCH: Final = 200


@dataclass(frozen=True, slots=True)
class Numbers:
    """One budget's current window. Times are milliseconds; an end of 0 means never."""

    window_start_ms: int
    window_end_ms: int
    settled: int
    held: int


async def numbers(ledger: RedisLedger, org_id: UUID, rows: Sequence[BudgetRow]) -> dict[UUID, Numbers]:
    """The current window of each budget. Raises RedisUnavailable."""
    if not rows:
        return {}
    now_ms = await ledger.now_ms()
    found: dict[UUID, Numbers] = {}
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        scopes = tuple(queries.published(row).scope(now_ms) for row in batch)
        reply = await ledger.read(Read(str(org_id), scopes))
        for row, scope, state in zip(batch, scopes, reply.scopes, strict=True):
            found[row.id] = Numbers(scope.window_start_ms, scope.window_end_ms, state.settled, state.held)
    return found
