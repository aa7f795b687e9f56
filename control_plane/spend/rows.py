"""A stream entry as values: the ledger's statement about a call, and the row it amounts to. Pure."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from types import UnionType
from typing import Final, get_args, get_origin, get_type_hints
from uuid import UUID

from control_plane.kernel import times
from shared.events import CostEvent, decode_event
from shared.ledger import Scope, StreamEntry
from shared.ledger.redis import decode_windows, parse_entry

_COST_MAX: Final = 10**12
_NUL_ESCAPED: Final = b"\\u0000"


@dataclass(slots=True)
class EventRow:
    """A row of `cost_events`, by the same names. `recorded_at` and `revision` are the booking's."""

    org_id: UUID
    event_id: UUID
    occurred_at: datetime
    recorded_at: datetime
    booked_at: datetime
    rank: int
    revision: int
    event_type: str
    surface: str
    source: str
    trust: str
    api_key_id: UUID
    customer_id: str | None
    session_id: str | None
    trace_id: str | None
    action_id: str | None
    idempotency_key: str | None
    provider_request_id: str | None
    provider: str
    upstream_host: str
    model: str
    response_model: str | None
    tags: dict[str, str]
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    usage: dict[str, int]
    cost_microdollars: int
    original_cost_microdollars: int
    estimated_cost_microdollars: int
    cost_input: int | None
    cost_output: int | None
    cost_cached: int | None
    cost_tools: int | None
    cost_reasoning: int | None
    cost_source: str
    priced: str
    price_ref: str | None
    price_context: str
    outcome: str
    http_status: int | None
    streaming: bool
    stop_reason: str | None
    tool_calls: list[dict[str, str]]
    budget_status: str
    duration_ms: int
    upstream_duration_ms: int | None
    ttfb_ms: int | None
    overhead_us: int | None
    windows: list[str]
    flags: list[str]


@dataclass(frozen=True, slots=True)
class Statement:
    """The ledger says: this call costs that now, at this rank, in these windows."""

    row: EventRow
    scopes: tuple[Scope, ...]


def read_statement(fields: dict[bytes, bytes], recorded_at: datetime) -> Statement:
    """One entry of the stream. Raises ValueError for one that says no such thing."""
    try:
        entry = parse_entry(fields)
        if not 0 <= entry.cost <= _COST_MAX or not 1 <= entry.rank <= 9:
            raise ValueError(f"cost {entry.cost} or rank {entry.rank} is out of range")
        scopes = decode_windows(fields[b"w"].decode())
        event = decode_event(_without_nul(entry.body))
        if event.id != entry.event_id or event.org_id != entry.org_id:
            raise ValueError("the body is of another call than the entry")
        row = _row(entry, event, recorded_at)
        _check_types(row)
        return Statement(row, scopes)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


@lru_cache(maxsize=16_384)
def _uuid(text: str) -> UUID:
    """For ids that come again and again."""
    return UUID(text)


def _row(entry: StreamEntry, event: CostEvent, recorded_at: datetime) -> EventRow:
    parts = event.cost_breakdown
    return EventRow(
        org_id=_uuid(entry.org_id),
        event_id=UUID(entry.event_id),
        occurred_at=times.from_ms(event.requested_at_ms),
        recorded_at=recorded_at,
        booked_at=times.from_ms(entry.booked_at_ms),
        rank=entry.rank,
        revision=0,
        event_type=event.event_type,
        surface=event.surface,
        source=event.source,
        trust=event.trust,
        api_key_id=_uuid(event.api_key_id),
        customer_id=event.customer_id,
        session_id=event.session_id,
        trace_id=event.trace_id,
        action_id=event.action_id,
        idempotency_key=event.idempotency_key,
        provider_request_id=event.provider_request_id,
        provider=event.provider,
        upstream_host=event.upstream_host,
        model=event.model,
        response_model=event.response_model,
        tags=event.tags,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cached_input_tokens=event.cached_input_tokens,
        reasoning_tokens=event.reasoning_tokens,
        usage=event.usage,
        cost_microdollars=entry.cost,
        original_cost_microdollars=entry.cost,
        estimated_cost_microdollars=event.estimated_cost_microdollars,
        cost_input=None if parts is None else parts.input,
        cost_output=None if parts is None else parts.output,
        cost_cached=None if parts is None else parts.cached,
        cost_tools=None if parts is None else parts.tools,
        cost_reasoning=None if parts is None else parts.reasoning,
        cost_source=event.cost_source,
        priced=event.priced,
        price_ref=event.price_ref,
        price_context=event.price_context,
        outcome=event.outcome,
        http_status=event.http_status,
        streaming=event.streaming,
        stop_reason=event.stop_reason,
        tool_calls=event.tool_calls,
        budget_status=event.budget_status,
        duration_ms=event.duration_ms,
        upstream_duration_ms=event.upstream_duration_ms,
        ttfb_ms=event.ttfb_ms,
        overhead_us=event.overhead_us,
        windows=list(entry.windows),
        flags=sorted({*event.flags, *entry.flags}),
    )


def _kinds() -> dict[str, tuple[type, ...]]:
    """The exact types a value of each column may have: a bool is no number here."""
    found = {}
    for name, hint in get_type_hints(EventRow).items():
        options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        found[name] = tuple(get_origin(option) or option for option in options)
    return found


_KINDS: Final = _kinds()
_VALUES: Final = attrgetter(*_KINDS)
_GOOD: Final[set[tuple[type, ...]]] = set()
"""Combinations that were checked: there are few, and looking one up is ten times as fast as checking it."""
_GOOD_MAX: Final = 4096


def _check_types(row: EventRow) -> None:
    """A body is JSON of anybody's making: sums are made of numbers, labels of text. Raises ValueError."""
    types = tuple(map(type, _VALUES(row)))
    if types not in _GOOD:
        for (name, kinds), found in zip(_KINDS.items(), types, strict=True):
            if found not in kinds:
                raise ValueError(f"{name} is {found.__name__}")
        if len(_GOOD) < _GOOD_MAX:
            _GOOD.add(types)
    if not all(type(value) is str for value in row.tags.values()):
        raise ValueError("tags are not text")
    if not all(type(value) is int for value in row.usage.values()):
        raise ValueError("usage is not whole numbers")
    if not all(type(call) is dict for call in row.tool_calls):
        raise ValueError("tool_calls are not objects")


def _without_nul(body: bytes) -> bytes:
    """PostgreSQL stores no NUL, and money must not be lost over a label that has one.

    In JSON a NUL is always escaped; an escaped backslash before `u0000` is left alone.
    """
    if _NUL_ESCAPED not in body:
        return body
    parts = body.split(b"\\\\")
    return b"\\\\".join(part.replace(_NUL_ESCAPED, b"\\ufffd") for part in parts)
