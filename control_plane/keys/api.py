"""Routes of API keys."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictStr, field_validator

from control_plane.kernel import errors, times
from control_plane.kernel.auth import Admin, Reader, documented
from control_plane.kernel.context import Here
from control_plane.kernel.db import Session
from control_plane.kernel.fields import (
    ERRORS,
    CursorModel,
    DeletedBody,
    Enforcement,
    Instant,
    PathId,
    RequestModel,
    ResponseModel,
    path_id,
)
from control_plane.kernel.http import json_response
from control_plane.kernel.pagination import LIMIT_DEFAULT, Cursor, CursorText, Limit, page_body, parse_cursor
from control_plane.kernel.write import Written, write
from control_plane.keys import queries, rules, service
from control_plane.keys.models import ApiKey
from control_plane.orgs import queries as orgs
from control_plane.spend import queries as spend
from shared.ids import KEY, SERVICE_ACCOUNT, USER

router = APIRouter(tags=["keys"], responses=ERRORS)

Name = Annotated[StrictStr, Field(min_length=1, max_length=50, examples=["production"])]
Pattern = Annotated[StrictStr, Field(min_length=1, max_length=100)]
Models = Annotated[list[Pattern], Field(max_length=50, examples=[["gpt-4o*"]])]
Providers = Annotated[list[Pattern], Field(max_length=50, examples=[["openai"]])]
ScopeName = Literal["proxy", "ingest", "read", "admin"]


def _checked_tags(tags: dict[str, str] | None) -> dict[str, str] | None:
    problem = None if tags is None else rules.tags_problem(tags)
    if problem is not None:
        raise ValueError(problem)
    return tags


class KeyCreate(RequestModel):
    name: Name
    scopes: Annotated[list[ScopeName], Field(min_length=1)] | None = None
    default_tags: dict[StrictStr, StrictStr] | None = None
    allowed_models: Models | None = None
    allowed_providers: Providers | None = None
    customer_id: StrictStr | None = None
    expires_at: Instant | None = None

    _tags = field_validator("default_tags")(_checked_tags)

    @field_validator("customer_id")
    @classmethod
    def _is_a_customer(cls, customer_id: str | None) -> str | None:
        if customer_id is not None and rules.CUSTOMER_ID.fullmatch(customer_id) is None:
            raise ValueError("must be 1 to 256 letters, digits or . _ : -")
        return customer_id

    @field_validator("expires_at")
    @classmethod
    def _is_ahead(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None and expires_at <= datetime.now(UTC):
            raise ValueError("must lie in the future")
        return expires_at


class KeyPatch(RequestModel):
    """A merge: what is left out stays, null clears a list."""

    name: Name | None = None
    default_tags: dict[StrictStr, StrictStr] | None = None
    allowed_models: Models | None = None
    allowed_providers: Providers | None = None

    _tags = field_validator("default_tags")(_checked_tags)


class KeyOwner(ResponseModel):
    type: Literal["user", "service_account"]
    id: str


class KeyRecord(ResponseModel):
    id: str = Field(examples=["ns_key_0192aaaa-0000-7000-8000-000000000001"])
    name: str
    key_prefix: str = Field(examples=["ns_live_sk_1a2b3c4d"])
    default_tags: dict[str, str]
    allowed_models: list[str] | None
    allowed_providers: list[str] | None
    last_used_at: str | None
    created_at: str
    updated_at: str
    scopes: list[str]
    owner: KeyOwner
    customer_id: str | None
    expires_at: str | None
    revoked_at: str | None
    version: int


class WrittenKey(KeyRecord):
    enforcement: Enforcement


class MintedKey(WrittenKey):
    raw_key: str | None = Field(description="The secret, shown once; null in the answer to a repetition.")


class KeyBody(ResponseModel):
    data: KeyRecord


class WrittenKeyBody(ResponseModel):
    data: WrittenKey


class MintedKeyBody(ResponseModel):
    data: MintedKey


class KeyList(ResponseModel):
    data: list[KeyRecord]
    cursor: CursorModel | None
    has_more: bool


def record(key: ApiKey, last_used_at: datetime | None) -> KeyRecord:
    owner = (
        KeyOwner(type="user", id=f"{USER}{key.owner_user_id}")
        if key.owner_user_id is not None
        else KeyOwner(type="service_account", id=f"{SERVICE_ACCOUNT}{key.service_account_id}")
    )
    return KeyRecord(
        id=f"{KEY}{key.id}",
        name=key.name,
        key_prefix=key.key_prefix,
        default_tags=key.default_tags,
        allowed_models=key.allowed_models,
        allowed_providers=key.allowed_providers,
        last_used_at=_iso(last_used_at),
        created_at=times.iso(key.created_at),
        updated_at=times.iso(key.updated_at),
        scopes=key.scopes,
        owner=owner,
        customer_id=key.customer_id,
        expires_at=_iso(key.expires_at),
        revoked_at=_iso(key.revoked_at),
        version=key.version,
    )


def _iso(instant: datetime | None) -> str | None:
    return None if instant is None else times.iso(instant)


@router.post(
    "/api/keys",
    operation_id="keys_create",
    summary="Mint a key",
    description="Answers with `rawKey`, which is shown once. The key works on every worker when the answer arrives.",
    status_code=201,
    response_model=MintedKeyBody,
    openapi_extra=documented("admin", "idempotency_conflict", "request_in_progress"),
)
async def create(request: Request, body: KeyCreate, caller: Admin, context: Here) -> Response:
    scopes = list(body.scopes or rules.DEFAULT_SCOPES)
    excess = rules.beyond(scopes, caller.grantable)
    if excess:
        message = f"A key cannot make a key with more than its own scopes: {', '.join(excess)}."
        raise errors.forbidden(message, required_scope=excess[0])
    new = service.NewKey(
        name=body.name,
        scopes=scopes,
        default_tags=body.default_tags or {},
        allowed_models=body.allowed_models,
        allowed_providers=body.allowed_providers,
        customer_id=body.customer_id,
        expires_at=body.expires_at,
    )

    async def effect(session: Session) -> Written:
        minted = await service.mint(session, caller.org_id, service.Owner(caller.owner_type, caller.owner_id), new)
        data = await _written(session, minted.key)
        return Written(201, data, secret={"rawKey": minted.secret})

    return await write(request, caller, context, effect)


@router.get(
    "/api/keys",
    operation_id="keys_list",
    summary="List live keys",
    description="Newest first. Revoked keys are not listed; each can still be read by its id.",
    response_model=KeyList,
    openapi_extra=documented("read", "invalid_cursor"),
)
async def list_keys(caller: Reader, context: Here, limit: Limit = LIMIT_DEFAULT, cursor: CursorText = None) -> Response:
    after = parse_cursor(cursor, KEY)
    async with context.database.read_only() as session:
        keys = await queries.page(session, caller.org_id, limit=limit, after=after)
        used = await spend.last_used(session, caller.org_id, [key.id for key in keys])
    return json_response(
        page_body(
            keys,
            limit,
            lambda key: record(key, used.get(key.id)).wire(),
            lambda key: Cursor(key.created_at, key.id).wire(KEY),
        )
    )


@router.get(
    "/api/keys/{key_id}",
    operation_id="keys_get",
    summary="Read one key",
    description="Also a revoked one.",
    response_model=KeyBody,
    openapi_extra=documented("read", "not_found"),
)
async def get(key_id: PathId, caller: Reader, context: Here) -> Response:
    wanted = path_id(key_id, KEY, "key")
    async with context.database.read_only() as session:
        key = await queries.get(session, caller.org_id, wanted)
        if key is None:
            raise errors.not_found("key")
        used = await spend.last_used(session, caller.org_id, [key.id])
    return json_response({"data": record(key, used.get(key.id)).wire()})


@router.patch(
    "/api/keys/{key_id}",
    operation_id="keys_update",
    summary="Rename a key or change its labels and mandates",
    description="A merge: what is left out stays, null clears a list (null: unrestricted, []: nothing).",
    response_model=WrittenKeyBody,
    openapi_extra=documented("admin", "not_found", "idempotency_conflict", "request_in_progress"),
)
async def update(request: Request, key_id: PathId, body: KeyPatch, caller: Admin, context: Here) -> Response:
    wanted = path_id(key_id, KEY, "key")
    changes: dict[str, Any] = body.model_dump(exclude_unset=True)
    if "name" in changes and changes["name"] is None:
        raise errors.invalid(["name"], "a key has a name; leave it out to keep it")
    if changes.get("default_tags", {}) is None:
        changes["default_tags"] = {}

    async def effect(session: Session) -> Written:
        return Written(200, await _written(session, await service.change(session, caller.org_id, wanted, changes)))

    return await write(request, caller, context, effect)


@router.delete(
    "/api/keys/{key_id}",
    operation_id="keys_revoke",
    summary="Revoke a key",
    description="Final. No worker accepts the key any more within a second; calls in flight finish and are charged.",
    response_model=DeletedBody,
    openapi_extra=documented("admin", "not_found", "idempotency_conflict", "request_in_progress"),
)
async def revoke(request: Request, key_id: PathId, caller: Admin, context: Here) -> Response:
    wanted = path_id(key_id, KEY, "key")

    async def effect(session: Session) -> Written:
        key = await service.revoke(session, caller.org_id, wanted)
        return Written(200, {"id": f"{KEY}{key.id}", "deleted": True}, extra={"deleted": True, "success": True})

    return await write(request, caller, context, effect)


async def _written(session: Session, key: ApiKey) -> dict[str, Any]:
    used = await spend.last_used(session, key.org_id, [key.id])
    version = await orgs.policy_version(session, key.org_id)
    enforcement = Enforcement(policy_version=version, published_at=None)
    return WrittenKey(**record(key, used.get(key.id)).model_dump(), enforcement=enforcement).wire()
