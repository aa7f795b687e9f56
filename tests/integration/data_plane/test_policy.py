"""What is published takes effect on the very next call, whether or not its announcement arrives."""

import asyncio
import time
from collections import Counter

import pytest

from shared import ids, redis_keys
from shared.budgets import encode_budgets, entity_key
from shared.ledger import SetLimit
from shared.redis_wire import RedisClient
from tests.integration.data_plane.caller import Caller
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.expected import assert_nothing_left, assert_refused
from tests.integration.data_plane.harness import Plane, until
from tests.integration.data_plane.surfaces import OPENAI
from tests.integration.data_plane.tenant import Key
from tests.integration.data_plane.upstream import Received, Wire, whole

HOLD = OPENAI.hold(OPENAI.body())


@pytest.fixture(params=["announced", "unannounced", "channel lost"])
async def told(request: pytest.FixtureRequest, plane: Plane) -> Plane:
    """A plane that knows its tenant's key and hears of changes, does not, or lost its channel just before."""
    assert (await plane.call()).status == 200
    if request.param == "channel lost":
        assert await plane.redis.execute("CLIENT", "KILL", "TYPE", "pubsub") >= 1
    plane.tenant.announces = request.param == "announced"
    return plane


async def status(plane: Plane, key: Key | None = None) -> int:
    return (await plane.call(key=key)).status


async def works_again(plane: Plane, key: Key | None = None) -> None:
    """A refusal that rests on the key alone may be a second old: nothing is asked of the ledger for it."""
    before = time.monotonic()

    async def works() -> bool:
        return await status(plane, key) == 200

    await until(works)
    assert time.monotonic() - before < 1.0


async def test_a_budget_takes_effect_on_the_next_call_when_it_is_made_raised_lowered_and_deleted(told: Plane) -> None:
    budget = await told.tenant.budget(0)
    assert await status(told) == 429
    budget = await told.tenant.set_limit(budget, 10**6)
    assert await status(told) == 200
    budget = await told.tenant.set_limit(budget, 1)
    assert await status(told) == 429
    await told.tenant.delete(budget)
    assert await status(told) == 200


async def test_a_key_without_budget_is_refused_on_the_next_call_after_it_was_revoked(told: Plane) -> None:
    await told.tenant.change_key(told.key, revoked=True)
    assert_refused(await told.call(), 401, "unauthorized", surface=OPENAI)
    await told.tenant.change_key(told.key, revoked=False)
    await works_again(told)


async def test_a_key_with_a_budget_is_refused_on_the_next_call_after_it_was_revoked(told: Plane) -> None:
    await told.tenant.budget(10**9)
    assert await status(told) == 200
    await told.tenant.change_key(told.key, revoked=True)
    assert await status(told) == 401


async def test_a_mandate_a_scope_and_a_customer_take_effect_on_the_next_call(told: Plane) -> None:
    await told.tenant.change_key(told.key, allowed_models=("o3",))
    assert await status(told) == 403
    await told.tenant.change_key(told.key, allowed_models=None)
    await works_again(told)
    await told.tenant.change_key(told.key, scopes=("read",))
    assert await status(told) == 403
    await told.tenant.change_key(told.key, scopes=("proxy",))
    await works_again(told)
    await told.tenant.change_key(told.key, customer_id="acme")
    await told.tenant.budget(0, "customer", "acme")
    assert (await told.call()).error["code"] == "customer_budget_exceeded"


async def test_a_key_works_within_a_second_of_being_made_even_if_it_was_tried_before(told: Plane) -> None:
    early = Key(ids.new_api_key(), (await told.tenant.key()).grant)
    assert await status(told, early) == 401
    await told.tenant.publish_key(early)
    await works_again(told, early)


async def test_without_any_call_the_copies_are_gone_within_a_second(told: Plane) -> None:
    await told.tenant.bump()
    before = time.monotonic()
    await until(lambda: told.tenant.id not in told.worker._keys.versions())
    assert told.tenant.id not in told.worker._policies.versions()
    assert time.monotonic() - before < 1.0


async def test_the_channel_is_heard_again_after_it_was_lost(plane: Plane) -> None:
    assert await status(plane) == 200
    assert await plane.redis.execute("CLIENT", "KILL", "TYPE", "pubsub") >= 1

    async def heard() -> bool:
        return bool((await plane.redis.execute("PUBSUB", "NUMSUB", redis_keys.CHANGES_CHANNEL))[1])

    await until(heard)
    assert await status(plane) == 200
    await plane.tenant.change_key(plane.key, revoked=True)
    assert await status(plane) == 401


# --- races


async def begin(plane: Plane, caller: Caller, *, key: Key | None = None) -> bytes:
    """Sends a call but for the end of its body, and waits until its key was read. Returns the rest."""
    raw = plane.request(key=key, headers=[("Expect", "100-continue")])
    split = raw.index(b"\r\n\r\n") + 4
    caller.send(raw[:split])
    assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    caller.send(raw[split : split + 10])
    return raw[split + 10 :]


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "unannounced"])
async def test_a_key_that_is_revoked_while_its_request_arrives_is_refused(plane: Plane, announced: bool) -> None:
    """Another key of the organisation is read anew meanwhile, so the worker's copies are all of the new version."""
    other = await plane.tenant.key()
    async with await plane.connect() as caller:
        rest = await begin(plane, caller)
        plane.tenant.announces = announced
        await plane.tenant.change_key(plane.key, revoked=True)
        assert await status(plane, other) == 200
        caller.send(rest)
        assert_refused(await caller.reply(), 401, "unauthorized", surface=OPENAI)
    assert len(plane.upstream.requests) == 1


async def test_a_mandate_that_comes_while_a_request_arrives_counts(plane: Plane) -> None:
    other = await plane.tenant.key()
    async with await plane.connect() as caller:
        rest = await begin(plane, caller)
        await plane.tenant.change_key(plane.key, allowed_models=("o3",), customer_id="acme")
        assert await status(plane, other) == 200
        caller.send(rest)
        assert_refused(await caller.reply(), 403, "mandate_violation", surface=OPENAI, denied=True)


async def test_a_key_that_is_revoked_while_its_call_runs_lets_the_call_end_and_no_other_begin(plane: Plane) -> None:
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await go.wait()
        await whole(OPENAI.reply)(request, wire)

    plane.upstream.play = late
    budget = await plane.tenant.budget(10**9)
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await until(lambda: plane.upstream.requests)
        await plane.tenant.change_key(plane.key, revoked=True)
        assert await status(plane) == 401
        go.set()
        assert (await caller.reply()).status == 200
    assert (await plane.tenant.spent()).cost == OPENAI.cost
    assert (await plane.tenant.state(budget)).held == 0


async def test_a_budget_that_is_deleted_or_lowered_under_a_running_call_is_charged_in_full(plane: Plane) -> None:
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await go.wait()
        await whole(OPENAI.reply)(request, wire)

    plane.upstream.play = late
    deleted, lowered = await plane.tenant.budget(10**9), await plane.tenant.budget(10**9, "api_key", plane.key.id)
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await until(lambda: plane.upstream.requests)
        await plane.tenant.delete(deleted)
        await plane.tenant.set_limit(lowered, 1)
        go.set()
        assert (await caller.reply()).status == 200
    assert (await plane.tenant.spent()).cost == OPENAI.cost
    for budget in (deleted, lowered):
        state = await plane.tenant.state(budget)
        assert (state.settled, state.held) == (OPENAI.cost, 0)


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "unannounced"])
async def test_a_policy_that_changes_under_sixty_four_callers_refuses_none_of_them(
    plane: Plane, announced: bool
) -> None:
    assert await status(plane) == 200
    plane.tenant.announces = announced
    callers = [await plane.connect() for _ in range(64)]
    keys = [plane.key, await plane.tenant.key(), await plane.tenant.key()]
    for number, caller in enumerate(callers):
        caller.send(plane.request(key=keys[number % 3]))
    for _ in range(3):
        await plane.tenant.bump()
    replies = await asyncio.gather(*(caller.reply() for caller in callers))
    assert Counter(reply.status for reply in replies) == {200: 64}
    await asyncio.gather(*(caller.leave() for caller in callers))
    assert len(await plane.tenant.ended(65)) == 65


async def test_a_policy_that_never_agrees_with_the_ledger_ends_in_a_refusal(plane: Plane) -> None:
    """A budget is deleted in the ledger and still defined: whoever reads again reads the same again."""
    budget = await plane.tenant.budget(10**9)
    assert await status(plane) == 200
    await plane.tenant.ended(1)
    definition = encode_budgets([budget])
    verb = SetLimit(plane.tenant.id, budget.id, 99, 0, True, 99, entity_key("org", plane.tenant.id), definition)
    await plane.tenant.ledger.set_limit(verb)
    before = time.monotonic()
    reply = await plane.call()
    error = assert_refused(reply, 503, "service_unavailable", surface=OPENAI)
    assert error["recovery"] == {"retryable": True, "owner_action_required": False, "retry_after_seconds": 1}
    assert reply.header("Retry-After") == "1"
    assert time.monotonic() - before < 1.0
    assert len(plane.upstream.requests) == 1
    assert await plane.tenant.holds() == []


# --- what cannot be read


async def test_prices_nobody_can_read_leave_the_old_ones_and_the_watch_in_force(
    new_plane: NewPlane, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_plane.watch._POLL_S", 0.01)
    monkeypatch.setattr("data_plane.watch._PRICES_EVERY", 1)
    plane = await new_plane()
    assert await status(plane) == 200
    for version, payload in (("v2", b'{"format":99}'), ("v3", b"no json"), ("v4", b"")):
        await redis.execute("SET", redis_keys.prices(version), payload)
        await redis.execute("SET", redis_keys.PRICES_CURRENT, version)
        await asyncio.sleep(0.05)
    assert await status(plane) == 200
    plane.tenant.announces = False
    await plane.tenant.bump()
    await until(lambda: plane.tenant.id not in plane.worker._keys.versions())


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"key_id":1}'])
async def test_a_grant_nobody_can_read_is_an_outage_and_not_an_unknown_key(plane: Plane, body: bytes) -> None:
    name = (await plane.redis.execute("KEYS", "ns:grant:*"))[0].decode()
    await plane.redis.execute("HSET", name, "body", body)
    assert_refused(await plane.call(), 503, "service_unavailable", surface=OPENAI)
    await assert_nothing_left(plane)


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"budgets":[{}]}'])
async def test_a_budget_nobody_can_read_is_an_outage_and_not_no_budget(plane: Plane, body: bytes) -> None:
    name = redis_keys.policy(plane.tenant.prefix, plane.tenant.id, entity_key("org", plane.tenant.id))
    await plane.redis.execute("HSET", name, "v", 1, "body", body)
    assert_refused(await plane.call(), 503, "budget_unavailable", surface=OPENAI)
    await assert_nothing_left(plane)


async def test_a_worker_without_prices_refuses_until_it_has_them(
    new_plane: NewPlane, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_plane.watch._POLL_S", 0.01)
    monkeypatch.setattr("data_plane.watch._PRICES_EVERY", 1)
    current = await redis.execute("GETDEL", redis_keys.PRICES_CURRENT)
    plane = await new_plane()
    reply = await plane.call()
    assert_refused(reply, 503, "service_unavailable", surface=OPENAI)
    assert reply.header("Retry-After") == "2"
    await assert_nothing_left(plane)
    await redis.execute("SET", redis_keys.PRICES_CURRENT, current)
    await works_again(plane)
