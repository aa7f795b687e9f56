"""A ledger that was emptied, wholly or in part, is exactly what it was before it admits anything."""

from collections.abc import AsyncIterator

import pytest

from control_plane.kernel.context import Context
from control_plane.ledger.audit import run_audit
from control_plane.ledger.rebuild import Rebuilder
from control_plane.settings import Settings
from control_plane.wiring import connected
from shared import redis_keys
from shared.ledger import Denied, NoEpoch, Ok, Read, Scope
from tests.integration.control_plane.support import Installation, install, make_ready, rebuild, scope_of


@pytest.fixture
async def context(empty_database_url: str, redis_url: str) -> AsyncIterator[Context]:
    """A database of the test's own: an audit looks at all of it."""
    settings = Settings(database_url=empty_database_url, redis_url=redis_url, database_pool=4, consumer="test")
    async with connected(settings) as made:
        yield made


async def numbers(org: Installation, scope: Scope) -> tuple[int, int, int]:
    (state,) = (await org.context.ledger.read(Read(org.org_id, (scope,)))).scopes
    return state.limit, state.settled, state.held


async def test_a_new_ledger_admits_nothing_until_every_shard_has_its_epoch(org: Installation) -> None:
    scope = scope_of(await org.budget())
    assert isinstance(await org.reserve(org.event(), 5, [scope]), NoEpoch)
    rebuilder = Rebuilder(org.context.database, org.context.redis, org.context.ledger, org.context.grants_of)
    assert len(await rebuilder.missing()) == redis_keys.SHARDS
    await rebuild(org)
    assert await rebuilder.missing() == []
    assert isinstance(await org.reserve(org.event(), 5, [scope]), Ok)


async def test_an_emptied_redis_is_rebuilt_to_the_microdollar(ready: Installation) -> None:
    daily = await ready.budget(1_000, entityId="daily")
    plain = await ready.budget(10_000)
    now_ms = await ready.context.ledger.now_ms()
    ended = Scope(daily["id"].removeprefix("ns_bgt_"), "-", 1000, now_ms - 9 * 86_400_000)
    current = Scope(daily["id"].removeprefix("ns_bgt_"), "-", 2000, now_ms + 86_400_000)
    forever = scope_of(plain)
    await ready.spend(300, [current, forever])
    await ready.spend(200, [forever])
    await ready.record(50, [ended])
    await ready.ingest.drain()
    version = await ready.policy_version()
    await ready.context.redis.execute(["FLUSHALL"])
    await ready.ingest.drain()
    await rebuild(ready)
    assert await numbers(ready, current) == (1_000, 300, 0)
    assert await numbers(ready, forever) == (10_000, 500, 0)
    assert await numbers(ready, ended) == (1_000, 0, 0), "ended long ago: the ledger has forgotten it anyway"
    assert await ready.policy_version() > version, "a worker may have read the emptied Redis at the old version"
    prefix = redis_keys.tag(ready.org_id)
    assert await ready.context.redis.execute(["PTTL", redis_keys.window(prefix, current.window_id)]) > 8 * 86_400_000
    assert await ready.context.redis.execute(["PTTL", redis_keys.window(prefix, forever.window_id)]) == -1
    assert isinstance(await ready.reserve(ready.event(), 701, [current]), Denied)
    assert isinstance(await ready.reserve(ready.event(), 700, [current]), Ok)
    assert (await run_audit(ready.context)).findings == ()


async def test_a_lost_epoch_keeps_live_holds_and_what_the_stream_still_has(ready: Installation) -> None:
    scope = scope_of(await ready.budget(1_000))
    held, done = ready.event(), ready.event()
    await ready.reserve(held, 250, [scope])
    await ready.spend(100, [scope])
    await ready.reserve(done, 60, [scope])
    await ready.context.redis.execute(["DEL", redis_keys.epoch(redis_keys.tag(ready.org_id))])
    await ready.settle(done, 40, [scope])
    assert isinstance(await ready.reserve(ready.event(), 1, [scope]), NoEpoch)
    await rebuild(ready)
    assert await numbers(ready, scope) == (1_000, 140, 250)
    await ready.settle(held, 200, [scope])
    await ready.ingest.drain()
    assert await numbers(ready, scope) == (1_000, 340, 0)
    assert (await run_audit(ready.context)).findings == ()


async def test_counters_that_are_wrong_are_corrected_and_not_trusted(ready: Installation) -> None:
    scope = scope_of(await ready.budget(1_000))
    await ready.spend(100, [scope])
    await ready.ingest.drain()
    prefix, redis = redis_keys.tag(ready.org_id), ready.context.redis
    stray = redis_keys.window(prefix, f"{scope.budget_id}:77:-")
    await redis.execute(["HSET", redis_keys.window(prefix, scope.window_id), "settled", 9, "held", 500])
    await redis.execute(["HSET", stray, "settled", 9, "held", 9])
    await redis.execute(["DEL", redis_keys.epoch(prefix)])
    await rebuild(ready)
    assert await numbers(ready, scope) == (1_000, 100, 0)
    assert await redis.execute(["HMGET", stray, "settled", "held"]) == [b"0", b"0"]


async def test_a_shard_waits_for_its_unread_entries(ready: Installation) -> None:
    scope = scope_of(await ready.budget(1_000))
    await ready.spend(100, [scope])
    await ready.context.redis.execute(["DEL", redis_keys.epoch(redis_keys.tag(ready.org_id))])
    rebuilder = Rebuilder(ready.context.database, ready.context.redis, ready.context.ledger, ready.context.grants_of)
    assert await rebuilder.rebuild() == [redis_keys.shard_of(ready.org_id)]
    await ready.ingest.drain()
    assert await rebuilder.rebuild() == []


async def test_a_shard_that_is_written_to_meanwhile_is_computed_again(ready: Installation) -> None:
    scope = scope_of(await ready.budget(1_000))
    held = ready.event()
    await ready.reserve(held, 100, [scope])
    prefix, shard = redis_keys.tag(ready.org_id), redis_keys.shard_of(ready.org_id)
    await ready.context.redis.execute(["DEL", redis_keys.epoch(prefix)])
    rebuilder = Rebuilder(ready.context.database, ready.context.redis, ready.context.ledger, ready.context.grants_of)
    compute = rebuilder._windows

    async def interrupted(*arguments: object) -> object:
        windows = await compute(*arguments)  # type: ignore[arg-type]
        await ready.settle(held, 30, [scope])
        return windows

    rebuilder._windows = interrupted  # type: ignore[assignment, method-assign]
    assert await rebuilder.rebuild() == [shard]
    assert await ready.context.redis.execute(["EXISTS", redis_keys.epoch(prefix)]) == 0
    await rebuild(ready)
    assert await numbers(ready, scope) == (1_000, 30, 0)


async def test_only_the_shards_that_lost_their_epoch_are_touched(ready: Installation) -> None:
    others = [await install(ready.context) for _ in range(3)]
    epochs = {}
    for org in others:
        await make_ready(org)
        name = redis_keys.epoch(redis_keys.tag(org.org_id))
        epochs[name] = await org.context.redis.execute(["GET", name])
    mine = redis_keys.epoch(redis_keys.tag(ready.org_id))
    await ready.context.redis.execute(["DEL", mine])
    await rebuild(ready)
    for name, epoch in epochs.items():
        if name != mine:
            assert await ready.context.redis.execute(["GET", name]) == epoch
