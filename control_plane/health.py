"""Health: alive (`/api/health`), able to serve and to enforce (`/health/ready`), and which version runs."""

import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import text

from control_plane.kernel import outbox
from control_plane.kernel.auth import authenticate
from control_plane.kernel.context import Context, Here
from control_plane.kernel.db import DatabaseUnavailable
from control_plane.kernel.fields import ResponseModel
from control_plane.kernel.http import json_response
from control_plane.kernel.redis import RedisRefused, RedisUnavailable, within
from control_plane.spend import queries as spend
from shared import redis_keys
from shared.errors import Refusal, RequestRefusal

router = APIRouter(tags=["platform"])

_WAIT_S: Final = 2.0
_OUTBOX_LATE_S: Final = 60.0


class Status(ResponseModel):
    """`components` only for operators."""

    status: Literal["ok", "degraded"]
    components: dict[str, Any] | None = None


class Readiness(ResponseModel):
    serving: bool
    enforcing: bool
    checks: dict[str, Any]


class Version(ResponseModel):
    commit_sha: str | None
    commit_ref: str | None
    env: str
    deployed_at: str | None
    version: str


@dataclass(frozen=True, slots=True)
class Health:
    database: bool
    schema: str | None
    outbox_age_s: float
    parked: int
    redis: bool
    shards_ready: int
    prices: str | None
    failing: tuple[str, ...]

    @property
    def enforcing(self) -> bool:
        """Whether the ledger admits calls of every organisation, at prices that are loaded."""
        return self.redis and self.shards_ready == redis_keys.SHARDS and self.prices is not None

    @property
    def ok(self) -> bool:
        return self.database and self.redis and self.outbox_age_s < _OUTBOX_LATE_S


@router.get(
    "/api/health",
    operation_id="health",
    summary="Whether the control plane works",
    description="503 when degraded. `verbose=1` is for operators: the header x-ops-health-secret, or an admin key.",
    response_model=Status,
    responses={503: {"model": Status, "description": "Degraded."}},
)
async def health(request: Request, context: Here, verbose: Annotated[str, Query(pattern="^[01]$")] = "0") -> Response:
    if verbose == "1":
        await _operator_only(request, context)
    found = await examine(request, context)
    body: dict[str, Any] = {"status": "ok" if found.ok else "degraded"}
    if verbose == "1":
        body["components"] = {
            "database": "ok" if found.database else "unreachable",
            "schema": found.schema,
            "redis": "ok" if found.redis else "unreachable",
            "ledger": {"enforcing": found.enforcing, "shards_ready": found.shards_ready, "prices": found.prices},
            "worker": _worker_state(request, found),
            "outbox_age_seconds": found.outbox_age_s,
            "parked_entries": found.parked,
        }
    return json_response(body, 200 if found.ok else 503)


@router.get(
    "/health/ready",
    operation_id="health_ready",
    summary="Whether it serves, and whether budgets are enforced",
    description="200 when both hold, else 503.",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not both."}},
)
async def ready(request: Request, context: Here) -> Response:
    found = await examine(request, context)
    body = {
        "serving": found.database,
        "enforcing": found.enforcing,
        "checks": {
            "database": found.database,
            "redis": found.redis,
            "shards_ready": found.shards_ready,
            "prices": found.prices,
            "waiting": list(found.failing),
        },
    }
    return json_response(body, 200 if found.database and found.enforcing else 503)


@router.get(
    "/api/version",
    operation_id="version",
    summary="Which version runs",
    description="Null where the deployment does not say.",
    response_model=Version,
)
async def version(context: Here) -> Response:
    settings = context.settings
    return json_response(
        {
            "commit_sha": settings.commit_sha,
            "commit_ref": settings.commit_ref,
            "env": settings.env,
            "deployed_at": settings.deployed_at,
            "version": package_version("nullspend-server"),
        }
    )


async def examine(request: Request, context: Context) -> Health:
    """One look at everything; nothing it finds wrong raises."""
    database, schema, age, parked = True, None, 0.0, 0
    try:
        async with context.database.read_only() as session:
            schema = await session.scalar(text("SELECT version_num FROM alembic_version"))
            age = await outbox.oldest_pending_s(session)
            parked = await spend.parked_count(session)
    except DatabaseUnavailable:
        database = False
    epochs = [["EXISTS", redis_keys.epoch(redis_keys.shard_tag(shard))] for shard in range(redis_keys.SHARDS)]
    redis, ready_shards, prices = True, 0, None
    try:
        *found, current = await within(_WAIT_S, context.redis.pipeline([*epochs, ["GET", redis_keys.PRICES_CURRENT]]))
        ready_shards, prices = sum(found), current
    except (RedisUnavailable, RedisRefused):
        redis = False
    worker = request.app.state.worker
    return Health(
        database=database,
        schema=schema,
        outbox_age_s=age,
        parked=parked,
        redis=redis,
        shards_ready=ready_shards,
        prices=None if prices is None else prices.decode(),
        failing=() if worker is None else tuple(worker.failing()),
    )


def _worker_state(request: Request, found: Health) -> str:
    if request.app.state.worker is None:
        return "elsewhere"
    return f"waiting: {', '.join(found.failing)}" if found.failing else "ok"


async def _operator_only(request: Request, context: Context) -> None:
    """Without a configured secret and without an admin key the page does not exist."""
    secret, given = context.settings.ops_secret, request.headers.get("x-ops-health-secret")
    if secret is not None and given is not None:
        if hmac.compare_digest(given.encode(), secret.get_secret_value().encode()):
            return
    elif "x-nullspend-key" in request.headers or "authorization" in request.headers:
        try:
            caller = await authenticate(request.headers, context.credential_of, datetime.now(UTC))
        except (Refusal, DatabaseUnavailable):
            caller = None
        if caller is not None and "admin" in caller.scopes:
            return
    raise RequestRefusal(404, "not_found", "There is no such route.")
