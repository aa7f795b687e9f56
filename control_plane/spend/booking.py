"""Books statements in PostgreSQL, in one transaction of the caller's: keys, events, revisions, rollups, windows.

Rows are locked in the order keys, rollups, windows, each sorted, so that two workers never wait for each other in a
circle. The calls of a batch are locked before anything is computed from them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy import text

from control_plane.kernel.db import Session
from control_plane.spend import rules
from control_plane.spend.models import CostEventRow
from control_plane.spend.rows import EventRow, Statement
from control_plane.spend.rules import COUNTS, Changes

_COLUMNS: Final = tuple(f.name for f in fields(EventRow))
_DIMS: Final = ("api_key_id", "provider", "model", "source", "trust", "event_type", "customer_id")

_CLAIM: Final = text(
    """
    INSERT INTO cost_event_keys (org_id, event_id, occurred_at, rank)
    SELECT * FROM unnest(CAST(:orgs AS uuid[]), CAST(:events AS uuid[]), CAST(:times AS timestamptz[]),
                         CAST(:ranks AS smallint[])) AS new
    ORDER BY 1, 2
    ON CONFLICT DO NOTHING
    RETURNING org_id, event_id
    """
)
_LOCK: Final = text(
    """
    SELECT org_id, event_id, occurred_at FROM cost_event_keys
    WHERE (org_id, event_id) IN (SELECT * FROM unnest(CAST(:orgs AS uuid[]), CAST(:events AS uuid[])))
    ORDER BY org_id, event_id FOR UPDATE
    """
)
_KNOWN: Final = text(
    f"""
    SELECT {", ".join(f"e.{name}" for name in _COLUMNS)}
    FROM unnest(CAST(:orgs AS uuid[]), CAST(:events AS uuid[]), CAST(:times AS timestamptz[])) AS k(o, e, t)
    JOIN cost_events e ON e.org_id = k.o AND e.event_id = k.e AND e.occurred_at = k.t
    """  # noqa: S608 - the names are ours
).columns(**{column.name: column.type for column in CostEventRow.__table__.columns})
_INSERT: Final = text(
    f"""
    INSERT INTO cost_events ({", ".join(_COLUMNS)})
    SELECT {", ".join(_COLUMNS)} FROM jsonb_populate_recordset(NULL::cost_events, CAST(:rows AS jsonb))
    """  # noqa: S608 - the names are ours
)
_REVISE: Final = text(
    f"""
    UPDATE cost_events e SET {", ".join(f"{name} = n.{name}" for name in _COLUMNS[3:])}
    FROM jsonb_populate_recordset(NULL::cost_events, CAST(:rows AS jsonb)) n
    WHERE e.org_id = n.org_id AND e.event_id = n.event_id AND e.occurred_at = n.occurred_at
    """  # noqa: S608 - the names are ours
)
_RANK: Final = text(
    """
    UPDATE cost_event_keys k SET rank = n.rank
    FROM unnest(CAST(:orgs AS uuid[]), CAST(:events AS uuid[]), CAST(:ranks AS smallint[])) AS n(o, e, rank)
    WHERE k.org_id = n.o AND k.event_id = n.e
    """
)
_REVISIONS: Final = text(
    """
    INSERT INTO cost_event_revisions (org_id, event_id, revision, rank, cost_microdollars, delta_microdollars, reason)
    SELECT org_id, event_id, revision, rank, cost_microdollars, delta_microdollars, reason
    FROM jsonb_populate_recordset(NULL::cost_event_revisions, CAST(:rows AS jsonb))
    """
)
_ROLLUPS: Final = text(
    f"""
    INSERT INTO rollup_hourly (org_id, hour, dims_key, {", ".join((*_DIMS, *COUNTS))})
    SELECT org_id, hour, dims_key, {", ".join((*_DIMS, *COUNTS))}
    FROM jsonb_populate_recordset(NULL::rollup_hourly, CAST(:rows AS jsonb))
    ORDER BY org_id, hour, dims_key
    ON CONFLICT (org_id, hour, dims_key) DO UPDATE SET
    {", ".join(f"{name} = rollup_hourly.{name} + excluded.{name}" for name in COUNTS)}
    """  # noqa: S608 - the names are ours
)
_WINDOWS: Final = text(
    """
    INSERT INTO budget_windows
        (org_id, budget_id, scope_value, window_start_ms, window_end_ms, settled_microdollars, calls)
    SELECT org_id, budget_id, scope_value, window_start_ms, window_end_ms, settled_microdollars, calls
    FROM jsonb_populate_recordset(NULL::budget_windows, CAST(:rows AS jsonb))
    ORDER BY org_id, budget_id, scope_value, window_start_ms
    ON CONFLICT (org_id, budget_id, scope_value, window_start_ms) DO UPDATE SET
        settled_microdollars = budget_windows.settled_microdollars + excluded.settled_microdollars,
        calls = budget_windows.calls + excluded.calls,
        updated_at = now()
    """
)


async def book(session: Session, statements: Sequence[Statement]) -> Changes:
    """Books a batch, in its order. Repetitions change nothing. Raises RowRefused when one of them cannot be stored."""
    known = await _known(session, statements)
    changed = rules.changes(known, statements)
    await _write_events(session, changed)
    await _write_sums(session, changed)
    return changed


async def _known(session: Session, statements: Sequence[Statement]) -> dict[tuple[UUID, UUID], EventRow]:
    """What is booked of these calls already. All of them are locked, also those that are new."""
    first = {(s.row.org_id, s.row.event_id): s.row for s in reversed(statements)}
    calls = sorted(first, key=_order)
    rows = [first[call] for call in calls]
    claimed = await session.execute(
        _CLAIM,
        {
            "orgs": [row.org_id for row in rows],
            "events": [row.event_id for row in rows],
            "times": [row.occurred_at for row in rows],
            "ranks": [row.rank for row in rows],
        },
    )
    new = {(row.org_id, row.event_id) for row in claimed}
    old = [call for call in calls if call not in new]
    if not old:
        return {}
    locked = (await session.execute(_LOCK, {"orgs": [o for o, _ in old], "events": [e for _, e in old]})).all()
    found = await session.execute(
        _KNOWN,
        {
            "orgs": [row.org_id for row in locked],
            "events": [row.event_id for row in locked],
            "times": [row.occurred_at for row in locked],
        },
    )
    booked = (EventRow(**row._mapping) for row in found)
    return {(row.org_id, row.event_id): row for row in booked}


def _order(call: tuple[UUID, UUID]) -> tuple[int, int]:
    """PostgreSQL's order of UUIDs."""
    return call[0].int, call[1].int


async def _write_events(session: Session, changed: Changes) -> None:
    if changed.inserted:
        await session.execute(_INSERT, {"rows": _json(changed.inserted)})
    if changed.revised:
        await session.execute(_REVISE, {"rows": _json(changed.revised)})
    moved = changed.revised + [row for row in changed.inserted if row.revision]
    if moved:
        await session.execute(
            _RANK,
            {
                "orgs": [row.org_id for row in moved],
                "events": [row.event_id for row in moved],
                "ranks": [row.rank for row in moved],
            },
        )
    if changed.revisions:
        await session.execute(_REVISIONS, {"rows": _json(changed.revisions)})


async def _write_sums(session: Session, changed: Changes) -> None:
    rollups = [
        {
            "org_id": dims.org_id,
            "hour": dims.hour,
            "dims_key": "\\x" + dims.key.hex(),
            **{name: getattr(dims, name) for name in _DIMS},
            **asdict(counts),
        }
        for dims, counts in changed.rollups.items()
        if counts
    ]
    if rollups:
        await session.execute(_ROLLUPS, {"rows": _json(rollups)})
    windows = [
        {
            "org_id": key.org_id,
            "budget_id": key.budget_id,
            "scope_value": key.value,
            "window_start_ms": key.start_ms,
            "window_end_ms": delta.end_ms,
            "settled_microdollars": delta.settled,
            "calls": delta.calls,
        }
        for key, delta in changed.windows.items()
        if delta.settled or delta.calls
    ]
    if windows:
        await session.execute(_WINDOWS, {"rows": _json(windows)})


def _json(rows: Iterable[Any]) -> str:
    return orjson.dumps(list(rows), default=_plain).decode()


def _plain(value: object) -> object:
    if isinstance(value, UUID):  # asyncpg has a subclass of its own
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
