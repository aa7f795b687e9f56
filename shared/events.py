"""The cost event: what one call was, used and cost, as the data plane writes it into the stream.

The stream entry around it (`shared.ledger.StreamEntry`) carries cost, rank and windows; they are the ledger's word and
win over anything in the body. Ids are bare UUIDs; the event's own id is the call's.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

import orjson

Outcome = Literal["completed", "cut_off", "refused", "never_sent"]
CostSource = Literal["exact", "counted", "bound", "reported", "computed"]
Priced = Literal["true", "false", "gap"]
Trust = Literal["enforced", "observed", "reported"]


@dataclass(slots=True)
class CostBreakdown:
    """Microdollars. `input + output + cached + tools` is the cost; `reasoning` is a part of `output`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    tools: int = 0
    reasoning: int = 0


@dataclass(slots=True)
class CostEvent:
    """One call. Times are UTC milliseconds, durations milliseconds (`overhead_us`: microseconds)."""

    id: str
    org_id: str
    api_key_id: str
    requested_at_ms: int
    provider: str
    model: str
    surface: str = ""
    event_type: str = "llm"
    source: str = "proxy"
    trust: Trust = "enforced"
    customer_id: str | None = None
    session_id: str | None = None
    trace_id: str | None = None
    idempotency_key: str | None = None
    action_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    upstream_host: str = ""
    response_model: str | None = None
    streaming: bool = False
    provider_request_id: str | None = None
    http_status: int | None = None
    stop_reason: str | None = None
    tool_calls: list[dict[str, str]] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    """The non-zero buckets and counters of `shared.prices.usage.Usage`, summed over the call's parts."""
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    cost_breakdown: CostBreakdown | None = None
    """None where only the hold is known."""
    estimated_cost_microdollars: int = 0
    """The hold."""
    outcome: Outcome = "cut_off"
    cost_source: CostSource = "bound"
    priced: Priced = "true"
    price_ref: str | None = None
    price_context: str = ""
    flags: list[str] = field(default_factory=list)
    """`estimated`, `no_usage`, `unparsable`, `cancelled`, `interrupted`, `provider_error`, `unknown`, …"""
    budget_status: str = "skipped"
    """`approved` when it was held in a budget, else `skipped`."""
    ttfb_ms: int | None = None
    duration_ms: int = 0
    upstream_duration_ms: int | None = None
    overhead_us: int | None = None


_FIELDS: Final = frozenset(f.name for f in fields(CostEvent))


def encode_event(event: CostEvent) -> bytes:
    return orjson.dumps(event)


def decode_event(body: bytes) -> CostEvent:
    """The inverse of `encode_event`. Unknown fields of a newer writer are ignored; a missing one is a ValueError."""
    row: dict[str, Any] = orjson.loads(body)
    known = {name: value for name, value in row.items() if name in _FIELDS}
    if known.get("cost_breakdown") is not None:
        known["cost_breakdown"] = CostBreakdown(**known["cost_breakdown"])
    try:
        return CostEvent(**known)
    except TypeError as error:
        raise ValueError(f"not a cost event: {error}") from error
