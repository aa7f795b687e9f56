"""A ledger that was emptied, wholly or in part, is exactly what it was before it admits anything."""

from control_plane.ledger.audit import run_audit
from control_plane.ledger.rebuild import Rebuilder
from shared import redis_keys
from shared.ledger import Denied, NoEpoch, Ok, Read, Scope
from tests.integration.control_plane.support import Installation, install, make_ready, rebuild, scope_of


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


async def test_an_emptied_redis_is_rebuilt_to_the_microdollar(alone: Installation) -> None:
    daily = await alone.budget(1_000, entityId="daily")
    plain = await alone.budget(10_000)
    now_ms = await alone.context.ledger.now_ms()
    ended = Scope(daily["id"].removeprefix("ns_bgt_"), "-", 1000, now_ms - 9 * 86_400_000)
    current = Scope(daily["id"].removeprefix("ns_bgt_"), "-", 2000, now_ms + 86_400_000)
    forever = scope_of(plain)
    await alone.spend(300, [current, forever])
    await alone.spend(200, [forever])
    await alone.record(50, [ended])
    await alone.ingest.drain()
    version = await alone.policy_version()
    await alone.context.redis.execute(["FLUSHALL"])
    await alone.ingest.drain()
    await rebuild(alone)
    assert await numbers(alone, current) == (1_000, 300, 0)
    assert await numbers(alone, forever) == (10_000, 500, 0)
    assert await numbers(alone, ended) == (1_000, 0, 0), "ended long ago: the ledger has forgotten it anyway"
    assert await alone.policy_version() > version, "a worker may have read the emptied Redis at the old version"
    prefix = redis_keys.tag(alone.org_id)
    assert await alone.context.redis.execute(["PTTL", redis_keys.window(prefix, current.window_id)]) > 8 * 86_400_000
    assert await alone.context.redis.execute(["PTTL", redis_keys.window(prefix, forever.window_id)]) == -1
    assert isinstance(await alone.reserve(alone.event(), 701, [current]), Denied)
    assert isinstance(await alone.reserve(alone.event(), 700, [current]), Ok)
    assert (await run_audit(alone.context)).findings == ()


async def test_a_lost_epoch_keeps_live_holds_and_what_the_stream_still_has(alone: Installation) -> None:
    scope = scope_of(await alone.budget(1_000))
    held, done = alone.event(), alone.event()
    await alone.reserve(held, 250, [scope])
    await alone.spend(100, [scope])
    await alone.reserve(done, 60, [scope])
    await alone.context.redis.execute(["DEL", redis_keys.epoch(redis_keys.tag(alone.org_id))])
    await alone.settle(done, 40, [scope])
    assert isinstance(await alone.reserve(alone.event(), 1, [scope]), NoEpoch)
    await rebuild(alone)
    assert await numbers(alone, scope) == (1_000, 140, 250)
    await alone.settle(held, 200, [scope])
    await alone.ingest.drain()
    assert await numbers(alone, scope) == (1_000, 340, 0)
    assert (await run_audit(alone.context)).findings == ()


async def test_counters_that_are_wrong_are_corrected_and_not_trusted(alone: Installation) -> None:
    scope = scope_of(await alone.budget(1_000))
    await alone.spend(100, [scope])
    await alone.ingest.drain()
    prefix, redis = redis_keys.tag(alone.org_id), alone.context.redis
    stray = redis_keys.window(prefix, f"{scope.budget_id}:77:-")
    await redis.execute(["HSET", redis_keys.window(prefix, scope.window_id), "settled", 9, "held", 500])
    await redis.execute(["HSET", stray, "settled", 9, "held", 9])
    await redis.execute(["DEL", redis_keys.epoch(prefix)])
    await rebuild(alone)
    assert await numbers(alone, scope) == (1_000, 100, 0)
    assert await redis.execute(["HMGET", stray, "settled", "held"]) == [b"0", b"0"]


async def test_a_shard_waits_for_its_unread_entries(alone: Installation) -> None:
    scope = scope_of(await alone.budget(1_000))
    await alone.spend(100, [scope])
    await alone.context.redis.execute(["DEL", redis_keys.epoch(redis_keys.tag(alone.org_id))])
    rebuilder = Rebuilder(alone.context.database, alone.context.redis, alone.context.ledger, alone.context.grants_of)
    assert await rebuilder.rebuild() == [redis_keys.shard_of(alone.org_id)]
    await alone.ingest.drain()
    assert await rebuilder.rebuild() == []


async def test_a_shard_that_is_written_to_meanwhile_is_computed_again(alone: Installation) -> None:
    scope = scope_of(await alone.budget(1_000))
    held = alone.event()
    await alone.reserve(held, 100, [scope])
    prefix, shard = redis_keys.tag(alone.org_id), redis_keys.shard_of(alone.org_id)
    await alone.context.redis.execute(["DEL", redis_keys.epoch(prefix)])
    rebuilder = Rebuilder(alone.context.database, alone.context.redis, alone.context.ledger, alone.context.grants_of)
    compute = rebuilder._windows

    async def interrupted(*arguments: object) -> object:
        windows = await compute(*arguments)  # type: ignore[arg-type]
        await alone.settle(held, 30, [scope])
        return windows

    rebuilder._windows = interrupted  # type: ignore[assignment, method-assign]
    assert await rebuilder.rebuild() == [shard]
    assert await alone.context.redis.execute(["EXISTS", redis_keys.epoch(prefix)]) == 0
    await rebuild(alone)
    assert await numbers(alone, scope) == (1_000, 30, 0)


async def test_only_the_shards_that_lost_their_epoch_are_touched(alone: Installation) -> None:
    others = [await install(alone.context) for _ in range(3)]
    epochs = {}
    for org in others:
        await make_ready(org)
        name = redis_keys.epoch(redis_keys.tag(org.org_id))
        epochs[name] = await org.context.redis.execute(["GET", name])
    mine = redis_keys.epoch(redis_keys.tag(alone.org_id))
    await alone.context.redis.execute(["DEL", mine])
    await rebuild(alone)
    for name, epoch in epochs.items():
        if name != mine:
            assert await alone.context.redis.execute(["GET", name]) == epoch
