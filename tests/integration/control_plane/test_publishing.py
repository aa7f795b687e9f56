"""From a committed row to Redis: order, lateness, outages, repair."""

from dataclasses import replace
from uuid import UUID

from redis.asyncio import Redis
from sqlalchemy import text

from control_plane.kernel.redis import RedisServer
from control_plane.keys.published import grants_of
from control_plane.ledger import publish
from control_plane.ledger.prices import PricePublisher
from control_plane.ledger.publish import Publisher
from control_plane.ledger.reconcile import reconcile_organisation
from control_plane.orgs import queries as orgs
from shared import redis_keys
from shared.ids import BUDGET
from shared.ledger.redis import RedisLedger
from shared.prices.table import PriceTable
from tests.integration.control_plane.support import Installation, app_of, scope_of


async def everything(org: Installation) -> publish.Publication:
    org_id = UUID(org.org_id)
    async with org.context.database.read_only() as session:
        version = await orgs.policy_version(session, org_id)
        return await publish.read(session, org_id, version, grants_of, key_ids=None, budget_ids=None)


async def stored_limit(org: Installation, budget_id: str) -> list[bytes | None]:
    key = redis_keys.limit(redis_keys.tag(org.org_id), budget_id.removeprefix(BUDGET))
    found: list[bytes | None] = await org.context.redis.execute(["HMGET", key, "version", "limit", "deleted"])
    return found


async def test_an_older_publication_that_arrives_late_changes_nothing(org: Installation) -> None:
    budget = await org.budget(1_000)
    late = await everything(org)
    await org.admin.patch(f"/api/budgets/{budget['id']}", json={"maxBudgetMicrodollars": 5})
    version = await org.policy_version()
    await publish.send(org.context.redis, late)
    assert await stored_limit(org, budget["id"]) == [b"2", b"5", b"0"]
    assert await org.policy_version() == version


async def test_a_late_publication_cannot_bring_back_what_was_deleted(org: Installation) -> None:
    budget = await org.budget(1_000)
    key = (await org.admin.post("/api/keys", json={"name": "k"})).json()["data"]
    late = await everything(org)
    await org.admin.delete(f"/api/budgets/{budget['id']}")
    await org.admin.delete(f"/api/keys/{key['id']}")
    await publish.send(org.context.redis, late)
    assert await stored_limit(org, budget["id"]) == [b"2", None, b"1"]
    found = await publish_grants(org)
    assert found[key["id"].removeprefix("ns_key_")]


async def publish_grants(org: Installation) -> dict[str, bool]:
    """Key id to whether its published grant is revoked."""
    publication = await everything(org)
    bodies = await org.context.redis.pipeline(
        [["HGET", redis_keys.grant(grant.secret_sha256), "body"] for grant in publication.grants]
    )
    return {
        grant.grant.key_id: b'"revoked":true' in body for grant, body in zip(publication.grants, bodies, strict=True)
    }


async def test_changes_made_while_redis_is_away_are_accepted_and_in_force_when_it_is_back(org: Installation) -> None:
    away = RedisServer("unix:///nowhere/valkey.sock")
    blind = Publisher(org.context.database, away, grants_of, timeout_s=1.0)
    seeing = org.context.publish
    org.context = replace(org.context, publish=blind.publish)
    org.app = app_of(org.context)
    reply = await org.admin.post(
        "/api/budgets", json={"entityType": "customer", "entityId": "acme", "maxBudgetMicrodollars": 5}
    )
    assert reply.status_code == 201
    assert reply.headers["X-NullSpend-Warning"] == "unpublished"
    assert reply.json()["data"]["enforcement"]["publishedAt"] is None
    budget_id = reply.json()["data"]["id"]
    assert await stored_limit(org, budget_id) == [None, None, None]
    version = await org.policy_version()
    publisher = Publisher(org.context.database, org.context.redis, grants_of, timeout_s=5.0)
    async with org.context.database.transaction() as session:
        await session.execute(text("UPDATE outbox SET next_at = now()"))
    assert await publisher.publish_due() == 1
    assert await publisher.publish_due() == 0
    assert await stored_limit(org, budget_id) == [b"1", b"5", b"0"]
    assert await org.policy_version() == version + 2, "a try that failed may have been seen in half: one version more"
    shown = (await org.admin.get(f"/api/budgets/{budget_id}")).json()["data"]
    assert shown["enforcement"]["publishedAt"] is not None
    await seeing(UUID(org.org_id))
    await away.close()


async def test_a_write_is_answered_without_numbers_while_the_ledger_is_away(org: Installation) -> None:
    away = RedisServer("unix:///nowhere/valkey.sock")
    context = replace(org.context, redis=away, ledger=RedisLedger(away.execute))
    budget = await org.budget(1_000, resetInterval="daily")
    org.app = app_of(context)
    read = await org.admin.get(f"/api/budgets/{budget['id']}")
    assert (read.status_code, read.json()["error"]["code"]) == (503, "budget_unavailable")
    assert read.headers["Retry-After"] == "2"
    written = await org.admin.patch(f"/api/budgets/{budget['id']}", json={"maxBudgetMicrodollars": 7})
    assert written.status_code == 200
    shown = written.json()["data"]
    assert (shown["maxBudgetMicrodollars"], shown["spendMicrodollars"], shown["remainingMicrodollars"]) == (
        7,
        None,
        None,
    )
    assert shown["currentPeriodStart"] is not None
    assert (await org.client(None).get("/api/health")).status_code == 503
    await away.close()


async def test_many_changes_at_once_go_out_together_at_one_version(org: Installation) -> None:
    blind = replace(org.context, publish=_never)
    org.app = app_of(blind)
    budgets = [await org.budget(5, entityId=f"c{number}") for number in range(4)]
    key = (await org.admin.post("/api/keys", json={"name": "k"})).json()["data"]
    before = await org.policy_version()
    assert await org.context.publish(UUID(org.org_id))
    assert await org.policy_version() == before + 5
    for budget in budgets:
        assert (await stored_limit(org, budget["id"]))[1] == b"5"
    assert (await publish_grants(org))[key["id"].removeprefix("ns_key_")] is False


async def _never(_org_id: UUID) -> bool:
    return False


async def test_the_reconciler_repairs_what_was_lost_or_damaged(org: Installation) -> None:
    budget = await org.budget(1_000)
    assert await reconcile_organisation(org.context, UUID(org.org_id)) == 0
    prefix = redis_keys.tag(org.org_id)
    publication = await everything(org)
    redis, budget_id = org.context.redis, budget["id"].removeprefix(BUDGET)
    damages = [
        ["DEL", redis_keys.limit(prefix, budget_id)],
        ["HSET", redis_keys.limit(prefix, budget_id), "limit", "999999"],
        ["HSET", redis_keys.policy(prefix, org.org_id, "customer:acme"), "body", "{}"],
        ["DEL", redis_keys.policy(prefix, org.org_id, "customer:acme")],
        ["DEL", redis_keys.grant(publication.grants[0].secret_sha256)],
        ["HSET", redis_keys.grant(publication.grants[0].secret_sha256), "body", "junk"],
        ["DEL", redis_keys.policy_version(prefix, org.org_id)],
    ]
    for damage in damages:
        version = await org.policy_version()
        await redis.execute(damage)
        assert await reconcile_organisation(org.context, UUID(org.org_id)) == 1, damage
        assert await reconcile_organisation(org.context, UUID(org.org_id)) == 0, damage
        assert await org.policy_version() > version, damage
    assert (await stored_limit(org, budget["id"]))[1] == b"1000"


async def test_prices_are_published_table_first_and_again_when_they_are_gone(org: Installation) -> None:
    prices = PricePublisher(org.context.database, org.context.redis)
    version = await prices.ensure()
    redis = org.context.redis
    assert await redis.execute(["GET", redis_keys.PRICES_CURRENT]) == version.encode()
    table = PriceTable.load(await redis.execute(["GET", redis_keys.prices(version)]))
    assert table.version == version
    await redis.execute(["FLUSHALL"])
    assert await prices.ensure() == version
    assert await redis.execute(["EXISTS", redis_keys.prices(version)]) == 1
    async with org.context.database.read_only() as session:
        assert await session.scalar(text("SELECT count(*) FROM price_versions")) == 1


async def test_a_replaced_price_table_is_forgotten_only_after_a_while(org: Installation) -> None:
    redis = org.context.redis
    await redis.execute(["SET", redis_keys.prices("old"), "x"])
    await redis.execute(["SET", redis_keys.PRICES_CURRENT, "old"])
    await PricePublisher(org.context.database, redis).ensure()
    assert await redis.execute(["TTL", redis_keys.prices("old")]) > 29 * 24 * 3600


async def test_the_scope_of_a_published_budget_is_the_one_the_ledger_holds_in(ready: Installation) -> None:
    budget = await ready.budget(100)
    await ready.spend(60, [scope_of(budget)])
    shown = (await ready.admin.get(f"/api/budgets/{budget['id']}")).json()["data"]
    assert shown["remainingMicrodollars"] == 40


async def test_every_publication_is_announced_to_the_workers(org: Installation) -> None:
    listener = Redis.from_url(org.context.settings.redis_url, protocol=2).pubsub()
    await listener.subscribe(redis_keys.CHANGES_CHANNEL)
    await listener.get_message(timeout=5)
    key = (await org.admin.post("/api/keys", json={"name": "k"})).json()["data"]
    budget = await org.budget()
    for change in (
        org.admin.delete(f"/api/keys/{key['id']}"),
        org.admin.delete(f"/api/budgets/{budget['id']}"),
    ):
        while await listener.get_message(ignore_subscribe_messages=True):
            pass
        assert (await change).status_code == 200
        message = await listener.get_message(ignore_subscribe_messages=True, timeout=1)
        assert message is not None
        assert message["data"] == org.org_id.encode()
    await listener.aclose()  # type: ignore[no-untyped-call]
    await listener.connection_pool.disconnect()
