"""A ledger that is away, slow, empty or killed: nothing leaves unheld, and what was spent arrives exactly once."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from control_plane.prices.book import CompiledBook
from shared import redis_keys
from shared.redis_wire import RedisClient
from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.expected import assert_refused
from tests.integration.data_plane.harness import Plane, connected, publish_prices, until, working
from tests.integration.data_plane.servers import Store, answers
from tests.integration.data_plane.surfaces import OPENAI, SURFACES, Surface
from tests.integration.data_plane.tenant import Tenant
from tests.integration.data_plane.upstream import Received, Upstream, Wire, stream, whole

PATIENT_MS = 350
"""How long a caller waits at most to hear that the ledger is away."""

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    with Store() as store:
        yield store


@pytest.fixture
async def durable(store: Store, prices: CompiledBook, upstream: Upstream) -> AsyncIterator[Plane]:
    """A plane whose ledger can be killed, with the timeouts of production, after its first call."""
    async with connected(store.url) as redis:
        await answers(redis)
        await publish_prices(redis, prices)
        tenant = Tenant(redis)
        await tenant.open()
        async with working(store.url, upstream.url, reserve_timeout_s=0.25) as worker:
            plane = Plane(worker, tenant, await tenant.key(), upstream, store.url)
            assert (await plane.call()).status == 200
            await tenant.ended(1)
            yield plane


class Later:
    """A provider that answers when it is told to."""

    def __init__(self, surface: Surface = OPENAI, *, streams: bool = False) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self._play = stream(surface.pieces) if streams else whole(surface.reply)

    async def __call__(self, request: Received, wire: Wire) -> None:
        self.asked.set()
        await self.go.wait()
        await self._play(request, wire)


@each_surface
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_ledger_killed_between_hold_and_settlement_gets_the_settlement_once(
    durable: Plane, store: Store, surface: Surface, stream: bool
) -> None:
    budget = await durable.tenant.budget(WIDE)
    durable.upstream.play = later = Later(surface, streams=stream)
    async with await durable.connect() as caller:
        caller.send(durable.request(surface, stream=stream))
        await later.asked.wait()
        store.kill()
        later.go.set()
        reply = await caller.reply()
        assert (reply.status, reply.complete) == (200, True), "the client does not wait for the ledger"
    assert durable.worker._journal.depth == 1
    store.start()
    await answers(durable.redis)
    spend = (await durable.tenant.ended(2))[1]
    assert (spend.cost, spend.entry.rank, spend.entry.flags) == (surface.cost, 2, ())
    state = await durable.tenant.state(budget)
    assert (state.settled, state.held) == (surface.cost, 0)
    assert await durable.worker._journal.flushed(5)
    assert durable.worker._journal.conflicts == 0
    assert len(await durable.tenant.entries()) == 2


@each_surface
async def test_without_a_ledger_a_call_is_refused_quickly_and_nothing_leaves(
    durable: Plane, store: Store, surface: Surface
) -> None:
    store.kill()
    seen = durable.upstream.bytes_received
    before = time.monotonic()
    reply = await durable.call(surface)
    assert (time.monotonic() - before) * 1000 < PATIENT_MS
    error = assert_refused(reply, 503, "budget_unavailable", surface=surface)
    assert reply.header("Retry-After") == "2"
    assert error["details"] == {"retry_after_seconds": 2}
    assert error["recovery"] == {"retryable": True, "owner_action_required": False, "retry_after_seconds": 2}
    assert durable.upstream.bytes_received == seen
    assert durable.worker._journal.depth == 0, "what never left leaves nothing to undo"
    store.start()
    await answers(durable.redis)
    await until(lambda: durable.worker._redis.connected)
    assert (await durable.call(surface)).status == 200


async def test_without_a_ledger_an_unknown_key_is_an_outage_and_not_unknown(durable: Plane, store: Store) -> None:
    key = await durable.tenant.key()
    store.kill()
    assert_refused(await durable.call(key=key), 503, "service_unavailable", surface=OPENAI)
    store.start()
    await answers(durable.redis)


async def test_a_ledger_that_hangs_refuses_quickly_and_keeps_no_hold(durable: Plane, store: Store) -> None:
    """Whether the hold was taken is not known: the release that follows it undoes or bars it."""
    budget = await durable.tenant.budget(WIDE)
    assert (await durable.call()).status == 200
    await durable.tenant.ended(2)
    seen = durable.upstream.bytes_received
    store.suspend()
    before = time.monotonic()
    replies = await asyncio.gather(*(durable.call() for _ in range(5)))
    elapsed_ms = (time.monotonic() - before) * 1000
    store.resume()
    for reply in replies:
        assert_refused(reply, 503, "budget_unavailable", surface=OPENAI)
    assert elapsed_ms < PATIENT_MS + 100
    assert durable.upstream.bytes_received == seen
    spends = await durable.tenant.ended(7)
    assert await durable.worker._journal.flushed(5)
    state = await durable.tenant.state(budget)
    assert (state.settled, state.held) == (OPENAI.cost, 0)
    for spend in spends[2:]:
        assert (spend.cost, spend.event.outcome, spend.event.cost_source) == (0, "never_sent", "exact")
        assert spend.event.flags == []


async def test_a_settlement_whose_answer_was_lost_is_sent_again_and_counts_once(durable: Plane, store: Store) -> None:
    budget = await durable.tenant.budget(WIDE)
    durable.upstream.play = later = Later()
    async with await durable.connect() as caller:
        caller.send(durable.request())
        await later.asked.wait()
        store.suspend()
        later.go.set()
        assert (await caller.reply()).status == 200
        await until(lambda: durable.worker._journal.retried)
        store.resume()
    spend = (await durable.tenant.ended(2))[1]
    assert spend.cost == OPENAI.cost
    assert await durable.worker._journal.flushed(5)
    assert len(await durable.tenant.entries()) == 2
    assert (await durable.tenant.state(budget)).settled == OPENAI.cost


@each_surface
async def test_a_ledger_without_epoch_refuses_everything(plane: Plane, surface: Surface) -> None:
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface)).status == 200
    await plane.tenant.ended(1)
    await plane.redis.execute("DEL", redis_keys.epoch(plane.tenant.prefix))
    assert_refused(await plane.call(surface), 503, "budget_unavailable", surface=surface)
    assert len(plane.upstream.requests) == 1
    assert await plane.tenant.holds() == []
    await plane.tenant.open()
    assert (await plane.call(surface)).status == 200
    await plane.tenant.ended(2)
    assert (await plane.tenant.state(budget)).settled == 2 * surface.cost


@each_surface
async def test_a_limit_that_was_lost_is_an_outage_and_not_no_limit(plane: Plane, surface: Surface) -> None:
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface)).status == 200
    await plane.tenant.ended(1)
    await plane.redis.execute("DEL", redis_keys.limit(plane.tenant.prefix, budget.id))
    assert_refused(await plane.call(surface), 503, "budget_unavailable", surface=surface)
    assert len(plane.upstream.requests) == 1
    await plane.tenant.set_limit(budget, WIDE)
    assert (await plane.call(surface)).status == 200


async def test_a_ledger_that_forgot_its_scripts_is_taught_them_again(plane: Plane) -> None:
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call()).status == 200
    await plane.tenant.ended(1)
    await plane.redis.execute("SCRIPT", "FLUSH")
    plane.upstream.play = later = Later()
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await later.asked.wait()
        await plane.redis.execute("SCRIPT", "FLUSH")
        later.go.set()
        assert (await caller.reply()).status == 200
    await plane.tenant.ended(2)
    assert (await plane.tenant.state(budget)).settled == 2 * OPENAI.cost


async def test_a_full_ledger_refuses_and_settles_when_there_is_room(plane: Plane) -> None:
    budget = await plane.tenant.budget(WIDE)
    plane.upstream.play = later = Later()
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await later.asked.wait()
        await plane.redis.execute("CONFIG", "SET", "maxmemory", "1")
        try:
            assert_refused(await plane.call(), 503, "budget_unavailable", surface=OPENAI)
            later.go.set()
            assert (await caller.reply()).status == 200
            await until(lambda: plane.worker._journal.retried >= 2)
            assert sum(spend.cost for spend in await plane.tenant.entries()) == 0
        finally:
            await plane.redis.execute("CONFIG", "SET", "maxmemory", "0")
    spends = await plane.tenant.ended(2)
    assert sorted(spend.cost for spend in spends) == [0, OPENAI.cost]
    assert (await plane.tenant.state(budget)).settled == OPENAI.cost


async def test_without_a_budget_a_call_is_recorded_all_the_same(plane: Plane) -> None:
    assert (await plane.call()).status == 200
    spend = await plane.tenant.spent()
    assert (spend.cost, spend.entry.windows) == (OPENAI.cost, ())
    assert (spend.event.trust, spend.event.budget_status) == ("observed", "skipped")


async def test_an_unpriced_call_may_be_let_through_where_no_budget_applies(
    new_plane: NewPlane, redis: RedisClient
) -> None:
    plane = await new_plane(unpriced="allow")
    reply = await plane.call(model="gpt-9-ultra")
    assert (reply.status, reply.header("X-NullSpend-Warning")) == (200, "unpriced")
    spend = await plane.tenant.spent()
    assert (spend.event.model, spend.event.outcome) == ("gpt-9-ultra", "completed")
    await plane.tenant.budget(WIDE)
    assert_refused(await plane.call(model="gpt-9-ultra"), 400, "unpriced_model", surface=OPENAI, denied=True)


async def test_two_planes_book_what_one_of_them_lost_sight_of(new_plane: NewPlane) -> None:
    """A worker whose connection is cut in the middle of a call goes on by itself."""
    plane = await new_plane()
    budget = await plane.tenant.budget(WIDE)
    plane.upstream.play = later = Later()
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await later.asked.wait()
        await plane.redis.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        later.go.set()
        assert (await caller.reply()).status == 200
    await assert_booked(plane, budget, OPENAI.cost, "completed exact")
