"""Routes of budgets."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from control_plane.budgets import live, queries, rules, schemas, service
from control_plane.budgets.models import BudgetRow
from control_plane.kernel import errors, outbox, times
from control_plane.kernel.auth import Admin, Reader, documented
from control_plane.kernel.caller import Caller
from control_plane.kernel.context import Context, Here
from control_plane.kernel.db import Session
from control_plane.kernel.fields import ERRORS, DeletedBody, Enforcement, PathId, path_id
from control_plane.kernel.http import json_response
from control_plane.kernel.pagination import Cursor, CursorText, page_body, parse_cursor
from control_plane.kernel.redis import RedisUnavailable, within
from control_plane.kernel.write import Written, write
from control_plane.orgs import queries as orgs
from shared import ids
from shared.errors import RequestRefusal
from shared.ids import BUDGET, KEY, ORG
from shared.windows import bounds

router = APIRouter(tags=["budgets"], responses=ERRORS)

_LEDGER_WAIT_S: Final = 1.0
_WRITE_CODES: Final = ("not_found", "idempotency_conflict", "request_in_progress")


@router.get(
    "/api/budgets",
    operation_id="budgets_list",
    summary="List budgets",
    description="Newest first, with the ledger's current numbers. Without `limit` all budgets come in one page.",
    response_model=schemas.BudgetList,
    openapi_extra=documented("read", "invalid_cursor", "budget_unavailable"),
)
async def list_budgets(
    *,
    caller: Reader,
    context: Here,
    limit: Annotated[int | None, Query(ge=1, le=100)] = None,
    cursor: CursorText = None,
    entity_type: Annotated[schemas.EntityTypeName | None, Query(alias="entityType")] = None,
    entity_id: Annotated[str | None, Query(alias="entityId", max_length=400)] = None,
    status: Annotated[str, Query(pattern="^(live|archived)$")] = "live",
) -> Response:
    after = parse_cursor(cursor, BUDGET)
    wanted = entity_id
    if entity_id is not None and entity_type in {"org", "api_key"}:
        wanted = ids.bare(entity_id, ORG if entity_type == "org" else KEY) or entity_id
    async with context.database.read_only() as session:
        rows = await queries.page(
            session,
            caller.org_id,
            entity_type=entity_type,
            entity_id=wanted,
            archived=status == "archived",
            limit=limit,
            after=after,
        )
        records = await _records(session, context, caller.org_id, rows)
    body = page_body(
        rows, limit, lambda row: records[row.id].wire(), lambda row: Cursor(row.created_at, row.id).wire(BUDGET)
    )
    return json_response(body)


@router.post(
    "/api/budgets",
    operation_id="budgets_upsert",
    summary="Create or change the budget of an entity",
    description=(
        "201 when it was created, 200 when it was changed. Omitted fields keep their value. "
        "Effective for the next call on every worker when `enforcement.publishedAt` is set."
    ),
    status_code=201,
    response_model=schemas.BudgetBody,
    openapi_extra=documented("admin", "budget_entity_not_found", *_WRITE_CODES),
)
async def upsert(request: Request, body: schemas.BudgetUpsert, caller: Admin, context: Here) -> Response:
    change = body.change()

    async def effect(session: Session) -> Written:
        entity = await _entity(session, context, caller, body)
        zone = await orgs.timezone(session, caller.org_id)
        upserted = await service.upsert(session, caller.org_id, entity, change, org_timezone=zone)
        return Written(201 if upserted.created else 200, await _written(session, context, upserted.row))

    return await write(request, caller, context, effect)


@router.get(
    "/api/budgets/{budget_id}",
    operation_id="budgets_get",
    summary="Read one budget",
    description="With the ledger's current numbers. Also an archived one.",
    response_model=schemas.BudgetBody,
    openapi_extra=documented("read", "not_found", "budget_unavailable"),
)
async def get(budget_id: PathId, caller: Reader, context: Here) -> Response:
    wanted = path_id(budget_id, BUDGET, "budget")
    async with context.database.read_only() as session:
        row = await queries.get(session, caller.org_id, wanted)
        if row is None:
            raise errors.not_found("budget")
        records = await _records(session, context, caller.org_id, [row])
    return json_response({"data": records[row.id].wire()})


@router.patch(
    "/api/budgets/{budget_id}",
    operation_id="budgets_update",
    summary="Change a budget's limit",
    description="A merge. The window definition cannot be changed: archive the budget and create another.",
    response_model=schemas.BudgetBody,
    openapi_extra=documented("admin", *_WRITE_CODES),
)
async def update(
    request: Request, budget_id: PathId, body: schemas.BudgetPatch, caller: Admin, context: Here
) -> Response:
    change = body.change()
    return await _write_one(
        request,
        budget_id,
        caller,
        context,
        lambda session, wanted: service.change(session, caller.org_id, wanted, change),
    )


async def reset(
    request: Request, budget_id: PathId, caller: Admin, context: Here, body: schemas.Nothing | None = None
) -> Response:
    del body  # declared, so that fields in it are refused
    now_ms = await within(_LEDGER_WAIT_S, context.ledger.now_ms())
    return await _write_one(
        request,
        budget_id,
        caller,
        context,
        lambda session, wanted: service.reset(session, caller.org_id, wanted, now_ms),
    )


for _path, _name, _old in (
    ("/api/budgets/{budget_id}/reset", "budgets_reset", False),
    ("/api/budgets/{budget_id}", "budgets_reset_alias", True),
):
    router.post(
        _path,
        operation_id=_name,
        summary="Open a new window now" + (" (kept for older clients)" if _old else ""),
        description="The old window keeps its spend and its open holds; the end of the period does not move.",
        response_model=schemas.BudgetBody,
        deprecated=_old or None,
        openapi_extra=documented("admin", "budget_unavailable", *_WRITE_CODES),
    )(reset)


@router.delete(
    "/api/budgets/{budget_id}",
    operation_id="budgets_archive",
    summary="Archive a budget",
    description="It refuses nothing any more; calls in flight still settle into its windows. Its history stays.",
    response_model=DeletedBody,
    openapi_extra=documented("admin", *_WRITE_CODES),
)
async def archive(request: Request, budget_id: PathId, caller: Admin, context: Here) -> Response:
    wanted = path_id(budget_id, BUDGET, "budget")

    async def effect(session: Session) -> Written:
        row = await service.archive(session, caller.org_id, wanted)
        return Written(200, {"id": f"{BUDGET}{row.id}", "deleted": True}, extra={"deleted": True, "success": True})

    return await write(request, caller, context, effect)


async def _write_one(
    request: Request,
    budget_id: str,
    caller: Caller,
    context: Context,
    verb: Callable[[Session, UUID], Awaitable[BudgetRow]],
) -> Response:
    wanted = path_id(budget_id, BUDGET, "budget")

    async def effect(session: Session) -> Written:
        return Written(200, await _written(session, context, await verb(session, wanted)))

    return await write(request, caller, context, effect)


async def _entity(session: Session, context: Context, caller: Caller, body: schemas.BudgetUpsert) -> rules.Entity:
    """The entity a budget is for. Raises 400 when it cannot exist, 404 when it does not."""
    if body.entity_type == "org":
        if body.entity_id is not None and ids.bare(body.entity_id, ORG) != str(caller.org_id):
            raise _no_entity("organisation")
        return rules.Entity("org", str(caller.org_id))
    if body.entity_id is None:
        raise errors.invalid(["entityId"], f"a budget of a {body.entity_type} names it")
    if body.entity_type == "api_key":
        key_id = ids.bare(body.entity_id, KEY)
        if key_id is None or not await context.key_exists(session, caller.org_id, UUID(key_id)):
            raise _no_entity("key")
        return rules.Entity("api_key", key_id)
    try:
        return rules.labelled_entity(body.entity_type, body.entity_id)
    except ValueError as error:
        raise errors.invalid(["entityId"], str(error)) from error


def _no_entity(what: str) -> RequestRefusal:
    return RequestRefusal(404, "budget_entity_not_found", f"This organisation has no such {what}.")


async def _records(
    session: Session, context: Context, org_id: UUID, rows: Sequence[BudgetRow]
) -> dict[UUID, schemas.BudgetRecord]:
    """Budgets with the ledger's numbers. Raises RedisUnavailable: numbers are not guessed."""
    numbers = await within(_LEDGER_WAIT_S, live.numbers(context.ledger, org_id, rows))
    version = await orgs.policy_version(session, org_id)
    published = await outbox.published_at(session, org_id, [row.id for row in rows])
    return {
        row.id: schemas.record(
            row,
            numbers[row.id],
            (numbers[row.id].window_start_ms, numbers[row.id].window_end_ms),
            schemas.enforcement_of(row, version, published),
        )
        for row in rows
    }


async def _written(session: Session, context: Context, row: BudgetRow) -> dict[str, Any]:
    """A budget just written: without numbers when the ledger is away, for the change itself does not need it."""
    version = await orgs.policy_version(session, row.org_id)
    enforcement = Enforcement(policy_version=version, published_at=None)
    try:
        numbers = (await within(_LEDGER_WAIT_S, live.numbers(context.ledger, row.org_id, [row])))[row.id]
    except RedisUnavailable:
        window = bounds(queries.window_of(row), times.to_ms(datetime.now(UTC)))
        return schemas.record(row, None, window, enforcement).wire()
    window = (numbers.window_start_ms, numbers.window_end_ms)
    return schemas.record(row, numbers, window, enforcement).wire()
