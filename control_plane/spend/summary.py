"""Sums of a range by day, model, provider, key, tool, source and trace: from hourly rollups, edges from events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from control_plane.kernel import times
from control_plane.kernel.db import Session
from control_plane.spend import schemas
from control_plane.spend.periods import Range
from shared.ids import KEY

_TRACES: Final = 20
_SUMS: Final = (
    "requests",
    "unpriced",
    "cost_microdollars",
    "cost_input",
    "cost_output",
    "cost_cached",
    "cost_tools",
    "cost_reasoning",
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "reasoning_tokens",
    "duration_sum_ms",
)
_FACTS: Final = f"""
    WITH facts AS (
        SELECT hour AS at, api_key_id, provider, model, source, event_type, {", ".join(_SUMS)}
        FROM rollup_hourly WHERE org_id = :org AND hour >= :low AND hour < :high
        UNION ALL
        SELECT occurred_at, api_key_id, provider, model, source, event_type, 1, (priced <> 'true')::int,
            cost_microdollars, coalesce(cost_input, 0), coalesce(cost_output, 0), coalesce(cost_cached, 0),
            coalesce(cost_tools, 0), coalesce(cost_reasoning, 0), input_tokens, output_tokens, cached_input_tokens,
            reasoning_tokens, duration_ms
        FROM cost_events
        WHERE org_id = :org AND occurred_at >= :start AND occurred_at < :end
            AND (occurred_at < :low OR occurred_at >= :high)
    )
"""  # noqa: S608 - the names are ours
_TOTALS: Final = ", ".join(f"coalesce(sum({name}), 0)::bigint AS {name}" for name in _SUMS)
_GROUPS: Final = text(
    f"""{_FACTS}
    SELECT grouping(day) = 0 AS by_day, grouping(model) = 0 AS by_model, grouping(provider) = 0 AS by_provider,
        grouping(api_key_id) = 0 AS by_key, grouping(source) = 0 AS by_source, grouping(event_type) = 0 AS by_type,
        day, provider, model, api_key_id, source, event_type, {_TOTALS}
    FROM (SELECT *, (at AT TIME ZONE :zone)::date AS day FROM facts) AS f
    GROUP BY GROUPING SETS ((day), (provider, model), (provider), (api_key_id), (source), (event_type, model), ())
    ORDER BY cost_microdollars DESC, requests DESC, provider, model, api_key_id, source
    """  # noqa: S608 - the names are ours
)
_SUM: Final = text(f"{_FACTS} SELECT {_TOTALS} FROM facts")  # noqa: S608 - the names are ours
_BY_TRACE: Final = text(
    """
    SELECT trace_id, sum(cost_microdollars)::bigint AS cost, count(*) AS requests FROM cost_events
    WHERE org_id = :org AND occurred_at >= :start AND occurred_at < :end AND trace_id IS NOT NULL
    GROUP BY trace_id ORDER BY cost DESC, trace_id LIMIT :most
    """
)


@dataclass(frozen=True, slots=True)
class _Groups:
    rows: Sequence[Any]

    def by(self, *names: str) -> list[Any]:
        """The rows of one grouping set, named by what it groups by."""
        every = ("day", "model", "provider", "key", "source", "type")
        return [row for row in self.rows if all(getattr(row, f"by_{name}") == (name in names) for name in every)]


async def summary(session: Session, org_id: UUID, wanted: Range, key_names: dict[UUID, str]) -> schemas.Summary:
    """What was spent in a range. Missing days are zeros."""
    groups = _Groups((await session.execute(_GROUPS, _parameters(org_id, wanted) | {"zone": wanted.timezone})).all())
    previous = (await session.execute(_SUM, _parameters(org_id, wanted.before))).one()
    traces = await session.execute(
        _BY_TRACE, {"org": org_id, "start": wanted.start, "end": wanted.end, "most": _TRACES}
    )
    (total,) = groups.by()
    return schemas.Summary(
        daily=_daily(wanted, groups.by("day")),
        models=[_model(row) for row in groups.by("provider", "model")],
        providers=[schemas.ProviderSum(provider=row.provider, **_sum(row)) for row in groups.by("provider")],
        keys=[
            schemas.KeySum(api_key_id=f"{KEY}{row.api_key_id}", key_name=key_names.get(row.api_key_id), **_sum(row))
            for row in groups.by("key")
        ],
        tools=[_tool(row) for row in groups.by("type", "model") if row.event_type == "tool"],
        sources=[schemas.SourceSum(source=row.source, **_sum(row)) for row in groups.by("source")],
        traces=[
            schemas.TraceSum(trace_id=row.trace_id, total_cost_microdollars=row.cost, request_count=row.requests)
            for row in traces
        ],
        totals=schemas.Totals(
            total_cost_microdollars=total.cost_microdollars, total_requests=total.requests, period=wanted.period
        ),
        cost_breakdown=schemas.BreakdownSum(
            input_cost=total.cost_input,
            output_cost=total.cost_output,
            cached_cost=total.cost_cached,
            reasoning_cost=total.cost_reasoning,
            tools_cost=total.cost_tools,
        ),
        from_=times.iso(wanted.start),
        to=times.iso(wanted.end),
        timezone=wanted.timezone,
        previous=schemas.PreviousTotals(
            total_cost_microdollars=previous.cost_microdollars, total_requests=previous.requests
        ),
        unpriced_requests=total.unpriced,
    )


def _parameters(org_id: UUID, wanted: Range) -> dict[str, Any]:
    low, high = wanted.whole_hours()
    return {"org": org_id, "start": wanted.start, "end": wanted.end, "low": low, "high": high}


def _sum(row: Any) -> dict[str, int]:
    return {"total_cost_microdollars": row.cost_microdollars, "request_count": row.requests}


def _daily(wanted: Range, rows: list[Any]) -> list[schemas.Day]:
    found = {row.day: row for row in rows}
    return [
        schemas.Day(
            date=day.isoformat(),
            total_cost_microdollars=found[day].cost_microdollars if day in found else 0,
            request_count=found[day].requests if day in found else 0,
        )
        for day in wanted.days()
    ]


def _model(row: Any) -> schemas.ModelSum:
    return schemas.ModelSum(
        provider=row.provider,
        model=row.model,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cached_input_tokens=row.cached_input_tokens,
        reasoning_tokens=row.reasoning_tokens,
        **_sum(row),
    )


def _tool(row: Any) -> schemas.ToolSum:
    return schemas.ToolSum(model=row.model, avg_duration_ms=row.duration_sum_ms // max(1, row.requests), **_sum(row))
