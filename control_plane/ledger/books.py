"""PostgreSQL as the audit sees it: do its own books agree with each other? All in the caller's snapshot."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text

from control_plane.kernel.db import Session
from control_plane.ledger.report import Finding
from control_plane.spend.rules import COUNTS

FINDINGS_MAX: Final = 100

_DIMS: Final = "org_id, hour, api_key_id, provider, model, source, trust, event_type, customer_id"
_OF_EVENT: Final = {
    "requests": "1",
    "errors": "(outcome IN ('refused', 'never_sent'))::int",
    "unpriced": "(priced <> 'true')::int",
    "bound_cost_microdollars": "CASE WHEN cost_source IN ('bound', 'counted') THEN cost_microdollars ELSE 0 END",
    "duration_sum_ms": "duration_ms",
    **{f"cost_{part}": f"coalesce(cost_{part}, 0)" for part in ("input", "output", "cached", "tools", "reasoning")},
}
"""What an event adds to a rollup, written once more and independently of ingest."""

_ROLLUPS: Final = text(
    f"""
    SELECT {_DIMS},
        coalesce(sum(cost_microdollars) FILTER (WHERE side = 1), 0)::bigint AS expected,
        coalesce(-sum(cost_microdollars) FILTER (WHERE side = -1), 0)::bigint AS actual,
        {", ".join(f"sum({name})::bigint AS {name}" for name in COUNTS)}
    FROM (
        SELECT 1 AS side, org_id, date_trunc('hour', occurred_at, 'UTC') AS hour, api_key_id, provider, model, source,
            trust, event_type, customer_id, {", ".join(_OF_EVENT.get(name, name) + f" AS {name}" for name in COUNTS)}
        FROM cost_events WHERE org_id = ANY(CAST(:orgs AS uuid[]))
        UNION ALL
        SELECT -1, {_DIMS}, {", ".join(f"-{name}" for name in COUNTS)}
        FROM rollup_hourly WHERE org_id = ANY(CAST(:orgs AS uuid[]))
    ) AS both_sides
    GROUP BY {_DIMS} HAVING {" OR ".join(f"sum({name}) <> 0" for name in COUNTS)}
    ORDER BY org_id, hour LIMIT {FINDINGS_MAX}
    """  # noqa: S608 - the names are ours
)
_WINDOWS: Final = text(
    f"""
    SELECT window_id, sum(expected)::bigint AS expected, sum(actual)::bigint AS actual,
        sum(expected_calls)::bigint AS expected_calls, sum(actual_calls)::bigint AS actual_calls
    FROM (
        SELECT unnest(windows) AS window_id, cost_microdollars AS expected, 0 AS actual, 1 AS expected_calls,
            0 AS actual_calls
        FROM cost_events WHERE org_id = ANY(CAST(:orgs AS uuid[]))
        UNION ALL
        SELECT budget_id || ':' || window_start_ms || ':' || scope_value, 0, settled_microdollars, 0, calls
        FROM budget_windows WHERE org_id = ANY(CAST(:orgs AS uuid[]))
    ) AS both_sides
    GROUP BY window_id HAVING sum(expected) <> sum(actual) OR sum(expected_calls) <> sum(actual_calls)
    ORDER BY window_id LIMIT {FINDINGS_MAX}
    """  # noqa: S608 - a number of ours
)
_KEYS: Final = text(
    f"""
    SELECT coalesce(k.event_id, e.event_id) AS event_id, k.rank AS expected, e.rank AS actual
    FROM cost_event_keys k
    FULL JOIN cost_events e ON e.org_id = k.org_id AND e.event_id = k.event_id AND e.occurred_at = k.occurred_at
    WHERE coalesce(k.org_id, e.org_id) = ANY(CAST(:orgs AS uuid[])) AND k.rank IS DISTINCT FROM e.rank
    ORDER BY 1 LIMIT {FINDINGS_MAX}
    """  # noqa: S608 - a number of ours
)
_REVISIONS: Final = text(
    f"""
    SELECT e.event_id, e.original_cost_microdollars + coalesce(sum(r.delta_microdollars), 0) AS expected,
        e.cost_microdollars AS actual
    FROM cost_events e LEFT JOIN cost_event_revisions r ON r.org_id = e.org_id AND r.event_id = e.event_id
    WHERE e.org_id = ANY(CAST(:orgs AS uuid[]))
    GROUP BY e.org_id, e.event_id, e.occurred_at, e.original_cost_microdollars, e.cost_microdollars
    HAVING e.original_cost_microdollars + coalesce(sum(r.delta_microdollars), 0) <> e.cost_microdollars
    ORDER BY e.event_id LIMIT {FINDINGS_MAX}
    """  # noqa: S608 - a number of ours
)
_TOTALS: Final = text(
    """
    SELECT (SELECT count(*) FROM cost_events WHERE org_id = ANY(CAST(:orgs AS uuid[]))) AS events,
        (SELECT coalesce(sum(cost_microdollars), 0)::bigint FROM cost_events
         WHERE org_id = ANY(CAST(:orgs AS uuid[]))) AS cost,
        (SELECT count(*) FROM rollup_hourly WHERE org_id = ANY(CAST(:orgs AS uuid[]))) AS rollups
    """
)
_BOOKED: Final = text(
    """
    SELECT k.org_id, k.event_id, k.rank, e.cost_microdollars, e.windows
    FROM cost_event_keys k
    JOIN cost_events e ON e.org_id = k.org_id AND e.event_id = k.event_id AND e.occurred_at = k.occurred_at
    WHERE (k.org_id, k.event_id) IN (SELECT * FROM unnest(CAST(:orgs AS uuid[]), CAST(:events AS uuid[])))
    """
)


@dataclass(frozen=True, slots=True)
class Totals:
    events: int
    cost_microdollars: int
    rollups: int


@dataclass(frozen=True, slots=True)
class Booked:
    """A call as PostgreSQL has it."""

    rank: int
    cost: int
    windows: tuple[str, ...]


async def totals(session: Session, org_ids: Collection[UUID]) -> Totals:
    row = (await session.execute(_TOTALS, {"orgs": list(org_ids)})).one()
    return Totals(row.events, row.cost, row.rollups)


async def booked(session: Session, calls: Sequence[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Booked]:
    """What is booked of these calls, given as (organisation, event)."""
    rows = await session.execute(_BOOKED, {"orgs": [o for o, _ in calls], "events": [e for _, e in calls]})
    return {(row.org_id, row.event_id): Booked(row.rank, row.cost_microdollars, tuple(row.windows)) for row in rows}


async def findings(session: Session, org_ids: Collection[UUID]) -> list[Finding]:
    """Every disagreement between events, rollups, windows, keys and revisions."""
    orgs: dict[str, Any] = {"orgs": list(org_ids)}
    found = [_rollup(row) for row in await session.execute(_ROLLUPS, orgs)]
    found += [
        Finding(
            "window_events",
            row.window_id,
            str(row.expected),
            str(row.actual),
            f"{row.expected_calls} calls expected, {row.actual_calls} counted",
        )
        for row in await session.execute(_WINDOWS, orgs)
    ]
    found += [
        Finding("event", str(row.event_id), f"rank {row.expected}", f"rank {row.actual}", "key against row")
        for row in await session.execute(_KEYS, orgs)
    ]
    found += [
        Finding(
            "event", str(row.event_id), str(row.expected), str(row.actual), "first cost plus revisions against cost"
        )
        for row in await session.execute(_REVISIONS, orgs)
    ]
    return found


def _rollup(row: Any) -> Finding:
    subject = f"{row.hour.isoformat()} {row.provider}/{row.model} key {row.api_key_id} customer {row.customer_id}"
    differs = ", ".join(f"{name} {getattr(row, name):+d}" for name in COUNTS if getattr(row, name))
    return Finding("rollup", subject, str(row.expected), str(row.actual), f"events minus rollup: {differs}")
