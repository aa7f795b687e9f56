"""Routes of recorded spend. Reads only."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response

from control_plane.kernel import errors, times
from control_plane.kernel.auth import Reader, documented
from control_plane.kernel.context import Here
from control_plane.kernel.fields import ERRORS, Instant, PathId, path_id
from control_plane.kernel.http import json_response
from control_plane.kernel.pagination import LIMIT_DEFAULT, Cursor, CursorText, Limit, page_body, parse_cursor
from control_plane.orgs import queries as orgs
from control_plane.spend import periods, queries, schemas
from control_plane.spend.filters import EventFilter, event_filter
from control_plane.spend.summary import summary
from shared.ids import EVENT

router = APIRouter(tags=["spend"], responses=ERRORS)


@router.get(
    "/api/cost-events",
    operation_id="cost_events_list",
    summary="List calls",
    description="Newest first. Tags are filtered as `tag.<key>=<value>`; `from` is included, `to` is not.",
    response_model=schemas.CostEventList,
    openapi_extra=documented("read", "invalid_cursor"),
)
async def list_events(
    caller: Reader,
    context: Here,
    wanted: Annotated[EventFilter, Depends(event_filter)],
    limit: Limit = LIMIT_DEFAULT,
    cursor: CursorText = None,
) -> Response:
    after = parse_cursor(cursor, EVENT)
    async with context.database.read_only() as session:
        rows = await queries.page(session, caller.org_id, wanted, limit=limit, after=after)
        names = await context.key_names(session, caller.org_id)
    return json_response(
        page_body(
            rows,
            limit,
            lambda row: schemas.CostEventRecord(**schemas.event_fields(row, names.get(row.api_key_id))).wire(),
            lambda row: Cursor(row.occurred_at, row.event_id).wire(EVENT),
        )
    )


@router.get(
    "/api/cost-events/summary",
    operation_id="cost_events_summary",
    summary="Sum a range by day, model, provider, key, source and trace",
    description="`period` (7d, 30d, 90d: local days, today included) or `from` and `to`, at most 400 days.",
    response_model=schemas.SummaryBody,
    openapi_extra=documented("read"),
)
async def read_summary(
    *,
    caller: Reader,
    context: Here,
    period: Literal["7d", "30d", "90d"] | None = None,
    start: Annotated[Instant | None, Query(alias="from")] = None,
    end: Annotated[Instant | None, Query(alias="to")] = None,
    timezone: Annotated[str | None, Query(max_length=64, description="IANA; default the organisation's.")] = None,
) -> Response:
    if timezone is not None and not times.is_timezone(timezone):
        raise errors.invalid(["timezone"], "must be an IANA time zone like Europe/Paris")
    async with context.database.snapshot() as session:
        zone = timezone or await orgs.timezone(session, caller.org_id)
        wanted = _range(period, start, end, zone)
        names = await context.key_names(session, caller.org_id)
        found = await summary(session, caller.org_id, wanted, names)
    return json_response({"data": found.wire()})


@router.get(
    "/api/cost-events/{event_id}",
    operation_id="cost_events_get",
    summary="Read one call",
    description="With the revisions of its cost, oldest first.",
    response_model=schemas.CostEventBody,
    openapi_extra=documented("read", "not_found"),
)
async def get(event_id: PathId, caller: Reader, context: Here) -> Response:
    wanted = path_id(event_id, EVENT, "cost event")
    async with context.database.snapshot() as session:
        row = await queries.get(session, caller.org_id, wanted)
        if row is None:
            raise errors.not_found("cost event")
        names = await context.key_names(session, caller.org_id)
        revisions = [schemas.revision_record(r) for r in await queries.revisions(session, caller.org_id, wanted)]
    record = schemas.CostEventDetail(**schemas.event_fields(row, names.get(row.api_key_id)), revisions=revisions)
    return json_response({"data": record.wire()})


def _range(period: str | None, start: datetime | None, end: datetime | None, zone: str) -> periods.Range:
    """What is asked for. Raises 400 for ends that make no range."""
    now = datetime.now(UTC)
    if start is None and end is None:
        return periods.last_days(period or "30d", zone, now)
    if period is not None:
        raise errors.invalid(["period"], "is an alternative to from and to: send one or the other")
    if start is None:
        raise errors.invalid(["from"], "is needed when to is given")
    end = end or now
    if not start < end <= start + periods.RANGE_MAX:
        raise errors.invalid(["to"], f"must lie after from, by at most {periods.RANGE_MAX.days} days")
    return periods.Range(start.astimezone(UTC), end.astimezone(UTC), zone, None)
