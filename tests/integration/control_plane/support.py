"""What these tests share: an installation with one organisation, its API, and calls through the ledger."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from control_plane.app import create_app
from control_plane.bootstrap import Credentials, bootstrap
from control_plane.kernel.context import Context
from control_plane.ledger.rebuild import Rebuilder
from control_plane.spend.ingest import Ingest
from shared import redis_keys
from shared.events import CostBreakdown, CostEvent, encode_event
from shared.ids import BUDGET, uuid7
from shared.ledger import Ok, Record, Release, Reserve, ReserveReply, Scope, Settle

_numbers = itertools.count()
_apps: list[Any] = []


@dataclass(slots=True)
class Installation:
    """One organisation of a control plane, with everything that acts on it."""

    context: Context
    owner: Credentials
    ingest: Ingest
    app: Any = None
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    @property
    def org_id(self) -> str:
        return self.owner.org_id

    def client(self, key: str | None) -> httpx.AsyncClient:
        """A client that sends this key with every request."""
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=True)
        headers = {} if key is None else {"X-NullSpend-Key": key}
        client = httpx.AsyncClient(transport=transport, base_url="http://control", headers=headers)
        self.clients.append(client)
        return client

    @property
    def admin(self) -> httpx.AsyncClient:
        return self.client(self.owner.admin_key)

    async def budget(self, limit: int = 1_000_000, **fields: Any) -> dict[str, Any]:
        """A budget made through the API; of a customer unless told otherwise."""
        body = {"entityType": "customer", "entityId": "acme", "maxBudgetMicrodollars": limit, **fields}
        reply = await self.admin.post("/api/budgets", json=body)
        assert reply.status_code == 201, reply.text
        made: dict[str, Any] = reply.json()["data"]
        return made

    async def policy_version(self) -> int:
        prefix = redis_keys.tag(self.org_id)
        return int(await self.context.redis.execute(["GET", redis_keys.policy_version(prefix, self.org_id)]) or 0)

    def event(self, **fields: Any) -> CostEvent:
        defaults: dict[str, Any] = {
            "id": uuid7(),
            "org_id": self.org_id,
            "api_key_id": self.owner.service_key_id,
            "requested_at_ms": 1_790_000_000_000,
            "provider": "openai",
            "model": "gpt-4o",
            "customer_id": "acme",
            "outcome": "completed",
            "cost_source": "exact",
            "input_tokens": 100,
            "output_tokens": 20,
            "duration_ms": 300,
        }
        return CostEvent(**{**defaults, **fields})

    async def reserve(
        self, event: CostEvent, amount: int, scopes: Iterable[Scope], *, lease_ms: int = 60_000
    ) -> ReserveReply:
        verb = Reserve(
            id=event.id,
            org_id=self.org_id,
            policy_version=await self.policy_version(),
            amount=amount,
            scopes=tuple(scopes),
            lease_ms=lease_ms,
            draft=encode_event(event),
        )
        return await self.context.ledger.reserve(verb)

    async def settle(self, event: CostEvent, amount: int, scopes: Iterable[Scope]) -> None:
        priced = replace(event, cost_breakdown=CostBreakdown(input=amount - amount // 3, output=amount // 3))
        reply = await self.context.ledger.settle(
            Settle(event.id, self.org_id, amount, tuple(scopes), encode_event(priced))
        )
        assert isinstance(reply, Ok), reply

    async def release(self, event: CostEvent, scopes: Iterable[Scope]) -> None:
        released = replace(event, outcome="never_sent")
        await self.context.ledger.release(Release(event.id, self.org_id, tuple(scopes), encode_event(released)))

    async def record(self, amount: int, scopes: Iterable[Scope] = (), **fields: Any) -> CostEvent:
        """One finished call that had no hold."""
        event = self.event(**fields)
        parts = CostBreakdown(input=amount - amount // 3, output=amount // 3)
        body = encode_event(replace(event, cost_breakdown=parts))
        reply = await self.context.ledger.record(Record(event.id, self.org_id, amount, tuple(scopes), body))
        assert isinstance(reply, Ok), reply
        return event

    async def spend(self, amount: int, scopes: Iterable[Scope] = (), **fields: Any) -> CostEvent:
        """One call that was held and settled."""
        event, scopes = self.event(**fields), tuple(scopes)
        reply = await self.reserve(event, amount, scopes)
        assert isinstance(reply, Ok), reply
        await self.settle(event, amount, scopes)
        return event


def app_of(context: Context) -> Any:
    """The HTTP application on these stores. It is built once: that takes longer than most tests."""
    if not _apps:
        _apps.append(create_app(context))
    (app,) = _apps
    app._app.state.context = context
    return app


def scope_of(budget: dict[str, Any], *, start_ms: int = 0, end_ms: int = 0) -> Scope:
    """The scope of a budget that has no window."""
    return Scope(budget["id"].removeprefix(BUDGET), "-", start_ms, end_ms)


async def install(context: Context) -> Installation:
    """A new organisation with an owner's admin key and a service account's working key."""
    number = next(_numbers)
    owner = await bootstrap(context, slug=f"org-{number}", name="Org", owner_email=f"owner{number}@example.com")
    ingest = Ingest(context.database, context.redis, consumer="test", batch=100)
    return Installation(context, owner, ingest, app=app_of(context))


async def make_ready(org: Installation) -> None:
    """The ledger admits calls. Only the organisation's shard is really rebuilt, to save the other 63 their time."""
    shards = [shard for shard in range(redis_keys.SHARDS) if shard != redis_keys.shard_of(org.org_id)]
    await org.context.redis.pipeline(
        [["SET", redis_keys.epoch(redis_keys.shard_tag(shard)), "test"] for shard in shards]
    )
    await rebuild(org)


async def rebuild(org: Installation) -> None:
    context = org.context
    rebuilder = Rebuilder(context.database, context.redis, context.ledger, context.grants_of)
    for _ in range(10):
        await org.ingest.drain()
        if not await rebuilder.rebuild():
            return
    raise AssertionError("the ledger could not be rebuilt")
