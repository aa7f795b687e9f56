"""What a batch of statements changes: ranks decide, and every sum moves by the difference. Pure.

A known call with a higher rank is a revision; the same or a lower rank is a repetition and changes nothing. So any
order and any number of deliveries end in the same rows.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

from control_plane.spend.rows import EventRow, Statement
from shared.ledger import Scope

_SEPARATOR: Final = "\x1f"
_BOUNDED: Final = frozenset({"bound", "counted"})
_FAILED: Final = frozenset({"refused", "never_sent"})


@dataclass(frozen=True, slots=True)
class Revision:
    """The cost of one call was replaced."""

    org_id: UUID
    event_id: UUID
    revision: int
    rank: int
    cost_microdollars: int
    delta_microdollars: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dims:
    """What a rollup row is grouped by. `key` stands for all of them."""

    org_id: UUID
    hour: datetime
    key: bytes
    api_key_id: UUID
    provider: str
    model: str
    source: str
    trust: str
    event_type: str
    customer_id: str | None


@dataclass(slots=True)
class Counts:
    """The sums of a rollup row, or a difference of them."""

    requests: int = 0
    errors: int = 0
    unpriced: int = 0
    cost_microdollars: int = 0
    bound_cost_microdollars: int = 0
    cost_input: int = 0
    cost_output: int = 0
    cost_cached: int = 0
    cost_tools: int = 0
    cost_reasoning: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    duration_sum_ms: int = 0

    def add(self, other: "Counts", sign: int) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + sign * getattr(other, name))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in COUNTS)


COUNTS: Final = tuple(f.name for f in fields(Counts))


@dataclass(frozen=True, slots=True)
class WindowKey:
    org_id: UUID
    budget_id: UUID
    value: str
    start_ms: int


@dataclass(slots=True)
class WindowDelta:
    end_ms: int = 0
    settled: int = 0
    calls: int = 0


@dataclass(slots=True)
class Changes:
    """Everything one batch writes."""

    inserted: list[EventRow] = field(default_factory=list)
    revised: list[EventRow] = field(default_factory=list)
    revisions: list[Revision] = field(default_factory=list)
    rollups: dict[Dims, Counts] = field(default_factory=lambda: defaultdict(Counts))
    windows: dict[WindowKey, WindowDelta] = field(default_factory=lambda: defaultdict(WindowDelta))


def changes(known: dict[tuple[UUID, UUID], EventRow], statements: Iterable[Statement]) -> Changes:
    """What `statements`, in their order, change about what is `known` of their calls."""
    out = Changes()
    after: dict[tuple[UUID, UUID], EventRow] = {}
    ends: dict[str, int] = {}
    for statement in statements:
        call = (statement.row.org_id, statement.row.event_id)
        before = after.get(call) or known.get(call)
        ends.update((scope.window_id, scope.window_end_ms) for scope in statement.scopes)
        if before is None:
            after[call] = statement.row
        elif statement.row.rank > before.rank:
            after[call], revision = _revised(before, statement.row)
            out.revisions.append(revision)
    for call, row in after.items():
        old = known.get(call)
        (out.inserted if old is None else out.revised).append(row)
        _move(out, row, +1, ends)
        if old is not None:
            _move(out, old, -1, ends)
    return out


def _revised(before: EventRow, statement: EventRow) -> tuple[EventRow, Revision]:
    """The call keeps its place in time and its first cost."""
    row = replace(
        statement,
        occurred_at=before.occurred_at,
        recorded_at=before.recorded_at,
        original_cost_microdollars=before.original_cost_microdollars,
        revision=before.revision + 1,
    )
    revision = Revision(
        org_id=row.org_id,
        event_id=row.event_id,
        revision=row.revision,
        rank=row.rank,
        cost_microdollars=row.cost_microdollars,
        delta_microdollars=row.cost_microdollars - before.cost_microdollars,
        reason="trueup",
    )
    return row, revision


def _move(out: Changes, row: EventRow, sign: int, ends: dict[str, int]) -> None:
    out.rollups[dims_of(row)].add(counts_of(row), sign)
    for window_id in row.windows:
        delta = out.windows[window_key(row.org_id, window_id)]
        delta.end_ms = ends.get(window_id, delta.end_ms)
        delta.settled += sign * row.cost_microdollars
        delta.calls += sign


@lru_cache(maxsize=16_384)
def window_key(org_id: UUID, window_id: str) -> WindowKey:
    budget_id, start, value = window_id.split(":", 2)
    return WindowKey(org_id, UUID(budget_id), value, int(start))


def window_id(key: WindowKey) -> str:
    return Scope(str(key.budget_id), key.value, key.start_ms, 0).window_id


def dims_of(row: EventRow) -> Dims:
    hour = row.occurred_at.replace(minute=0, second=0, microsecond=0)
    names = (str(row.api_key_id), row.provider, row.model, row.source, row.trust, row.event_type)
    customer = "" if row.customer_id is None else "=" + row.customer_id
    key = hashlib.blake2b(_SEPARATOR.join((*names, customer)).encode(), digest_size=16).digest()
    return Dims(
        org_id=row.org_id,
        hour=hour,
        key=key,
        api_key_id=row.api_key_id,
        provider=row.provider,
        model=row.model,
        source=row.source,
        trust=row.trust,
        event_type=row.event_type,
        customer_id=row.customer_id,
    )


def counts_of(row: EventRow) -> Counts:
    """What one call adds to its rollup row."""
    return Counts(
        requests=1,
        errors=int(row.outcome in _FAILED),
        unpriced=int(row.priced != "true"),
        cost_microdollars=row.cost_microdollars,
        bound_cost_microdollars=row.cost_microdollars if row.cost_source in _BOUNDED else 0,
        cost_input=row.cost_input or 0,
        cost_output=row.cost_output or 0,
        cost_cached=row.cost_cached or 0,
        cost_tools=row.cost_tools or 0,
        cost_reasoning=row.cost_reasoning or 0,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_input_tokens=row.cached_input_tokens,
        reasoning_tokens=row.reasoning_tokens,
        duration_sum_ms=row.duration_ms,
    )
