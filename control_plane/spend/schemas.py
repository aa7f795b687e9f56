"""Shapes of recorded spend on the wire."""

from typing import Any

from pydantic import Field

from control_plane.kernel import times
from control_plane.kernel.fields import CursorModel, ResponseModel
from control_plane.spend import rules
from control_plane.spend.models import CostEventRevision, CostEventRow
from shared.ids import ACTION, BUDGET, EVENT, KEY


class CostParts(ResponseModel):
    """`input + output + cached + tools` is the cost; `reasoning` is a part of `output`."""

    input: int
    output: int
    cached: int
    tools: int
    reasoning: int


class ChargedWindow(ResponseModel):
    budget_id: str
    window_start: str | None


class CostEventRecord(ResponseModel):
    """One call, as it stands now."""

    id: str = Field(examples=["ns_evt_0192aaaa-0000-7000-8000-000000000001"])
    request_id: str
    api_key_id: str
    key_name: str | None
    provider: str
    model: str
    response_model: str | None
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int
    usage: dict[str, int]
    cost_microdollars: int
    original_cost_microdollars: int
    estimated_cost_microdollars: int
    cost_breakdown: CostParts | None
    cost_source: str
    priced: bool
    price_ref: str | None
    duration_ms: int
    ttfb_ms: int | None
    overhead_micros: int | None
    created_at: str
    recorded_at: str
    source: str
    trust: str
    event_type: str
    surface: str
    outcome: str
    http_status: int | None
    streaming: bool
    stop_reason: str | None
    tool_calls: list[dict[str, str]]
    budget_status: str
    budgets: list[ChargedWindow]
    customer_id: str | None
    session_id: str | None
    trace_id: str | None
    action_id: str | None
    tags: dict[str, str]
    upstream_host: str
    flags: list[str]
    revision: int


class RevisionRecord(ResponseModel):
    revision: int
    cost_microdollars: int
    delta_microdollars: int
    reason: str
    created_at: str


class CostEventDetail(CostEventRecord):
    revisions: list[RevisionRecord]


class CostEventBody(ResponseModel):
    data: CostEventDetail


class CostEventList(ResponseModel):
    data: list[CostEventRecord]
    cursor: CursorModel | None
    has_more: bool


class Day(ResponseModel):
    date: str
    total_cost_microdollars: int
    request_count: int


class ModelSum(ResponseModel):
    provider: str
    model: str
    total_cost_microdollars: int
    request_count: int
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    reasoning_tokens: int


class ProviderSum(ResponseModel):
    provider: str
    total_cost_microdollars: int
    request_count: int


class KeySum(ResponseModel):
    api_key_id: str
    key_name: str | None
    total_cost_microdollars: int
    request_count: int


class ToolSum(ResponseModel):
    model: str
    total_cost_microdollars: int
    request_count: int
    avg_duration_ms: int


class SourceSum(ResponseModel):
    source: str
    total_cost_microdollars: int
    request_count: int


class TraceSum(ResponseModel):
    trace_id: str
    total_cost_microdollars: int
    request_count: int


class Totals(ResponseModel):
    total_cost_microdollars: int
    total_requests: int
    period: str | None


class PreviousTotals(ResponseModel):
    total_cost_microdollars: int
    total_requests: int


class BreakdownSum(ResponseModel):
    input_cost: int
    output_cost: int
    cached_cost: int
    reasoning_cost: int
    tools_cost: int


class Summary(ResponseModel):
    daily: list[Day]
    models: list[ModelSum]
    providers: list[ProviderSum]
    keys: list[KeySum]
    tools: list[ToolSum]
    sources: list[SourceSum]
    traces: list[TraceSum]
    totals: Totals
    cost_breakdown: BreakdownSum
    from_: str = Field(alias="from")
    to: str
    timezone: str
    previous: PreviousTotals
    unpriced_requests: int


class SummaryBody(ResponseModel):
    data: Summary


def event_fields(row: CostEventRow, key_name: str | None) -> dict[str, Any]:
    return {
        "id": f"{EVENT}{row.event_id}",
        "request_id": row.provider_request_id or row.idempotency_key or str(row.event_id),
        "api_key_id": f"{KEY}{row.api_key_id}",
        "key_name": key_name,
        "provider": row.provider,
        "model": row.model,
        "response_model": row.response_model,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "usage": row.usage,
        "cost_microdollars": row.cost_microdollars,
        "original_cost_microdollars": row.original_cost_microdollars,
        "estimated_cost_microdollars": row.estimated_cost_microdollars,
        "cost_breakdown": _parts(row),
        "cost_source": row.cost_source,
        "priced": row.priced == "true",
        "price_ref": row.price_ref,
        "duration_ms": row.duration_ms,
        "ttfb_ms": row.ttfb_ms,
        "overhead_micros": row.overhead_us,
        "created_at": times.iso(row.occurred_at),
        "recorded_at": times.iso(row.recorded_at),
        "source": row.source,
        "trust": row.trust,
        "event_type": row.event_type,
        "surface": row.surface,
        "outcome": row.outcome,
        "http_status": row.http_status,
        "streaming": row.streaming,
        "stop_reason": row.stop_reason,
        "tool_calls": row.tool_calls,
        "budget_status": row.budget_status,
        "budgets": [_window(row, window_id) for window_id in row.windows],
        "customer_id": row.customer_id,
        "session_id": row.session_id,
        "trace_id": row.trace_id,
        "action_id": None if row.action_id is None else f"{ACTION}{row.action_id}",
        "tags": row.tags,
        "upstream_host": row.upstream_host,
        "flags": row.flags,
        "revision": row.revision,
    }


def revision_record(row: CostEventRevision) -> RevisionRecord:
    return RevisionRecord(
        revision=row.revision,
        cost_microdollars=row.cost_microdollars,
        delta_microdollars=row.delta_microdollars,
        reason=row.reason,
        created_at=times.iso(row.created_at),
    )


def _parts(row: CostEventRow) -> CostParts | None:
    if row.cost_input is None:
        return None
    return CostParts(
        input=row.cost_input,
        output=row.cost_output or 0,
        cached=row.cost_cached or 0,
        tools=row.cost_tools or 0,
        reasoning=row.cost_reasoning or 0,
    )


def _window(row: CostEventRow, window_id: str) -> ChargedWindow:
    key = rules.window_key(row.org_id, window_id)
    return ChargedWindow(
        budget_id=f"{BUDGET}{key.budget_id}", window_start=times.iso_ms(key.start_ms) if key.start_ms else None
    )
