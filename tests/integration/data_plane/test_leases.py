"""A hold lives as long as its call and its worker: kept up while they do, charged when they are gone."""

import asyncio
import signal
import time

import pytest

from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.caller import Caller
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.harness import Plane, until
from tests.integration.data_plane.servers import process
from tests.integration.data_plane.surfaces import ANTHROPIC, OPENAI
from tests.integration.data_plane.tenant import Spend
from tests.integration.data_plane.upstream import Received, Wire, whole

LEASE_S = 1.0
STREAM_S = 3.0
"""Three leases, and a dozen sweeps."""
WAIT_S = 1.8


async def long_stream(request: Received, wire: Wire) -> None:
    wire.begin()
    for piece in ANTHROPIC.pieces:
        wire.chunk(piece)
        await asyncio.sleep(STREAM_S / len(ANTHROPIC.pieces))
    wire.end()


async def long_wait(request: Received, wire: Wire) -> None:
    await asyncio.sleep(WAIT_S)
    await whole(ANTHROPIC.reply)(request, wire)


@pytest.mark.parametrize(
    ("stream", "forgotten"),
    [(True, False), (False, False), (False, True)],
    ids=["stream", "whole", "scripts forgotten"],
)
async def test_a_call_longer_than_its_lease_keeps_its_hold(new_plane: NewPlane, stream: bool, forgotten: bool) -> None:
    plane = await new_plane(lease_s=LEASE_S)
    plane.upstream.play = long_stream if stream else long_wait
    budget = await plane.tenant.budget(WIDE)
    call = asyncio.create_task(plane.call(ANTHROPIC, stream=stream))
    await until(lambda: plane.upstream.requests)
    if forgotten:
        await plane.redis.execute("SCRIPT", "FLUSH")
    hold = ANTHROPIC.hold(ANTHROPIC.body(stream=stream))
    while not call.done():
        state = await plane.tenant.state(budget)
        assert (state.held, state.settled) in {(hold, 0), (0, ANTHROPIC.cost)}
        await asyncio.sleep(0.03)
    assert (await call).status == 200
    await assert_booked(plane, budget, ANTHROPIC.cost, "completed exact")


async def lapsed(plane: Plane) -> Spend:
    """The end of the one call whose hold lapsed; other calls may have ended too."""
    async with asyncio.timeout(10):
        while True:
            found = [spend for spend in await plane.tenant.entries() if spend.entry.rank == 1]
            if found:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.01)


async def hang(request: Received, wire: Wire) -> None:
    if b"hang" in request.body:
        await wire.gone.wait()
    else:
        await whole(OPENAI.reply)(request, wire)


async def test_the_hold_of_a_worker_that_was_killed_lapses_and_is_charged_by_another(new_plane: NewPlane) -> None:
    plane = await new_plane(lease_s=LEASE_S)
    plane.upstream.play = hang
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call()).status == 200, "the survivor knows the organisation"
    body = OPENAI.body(user="hang")
    async with process(plane.redis_url, plane.upstream.url, lease_seconds="1") as other:
        async with await Caller.connect(other.port) as caller:
            caller.send(plane.request(body=body))
            await until(lambda: len(plane.upstream.requests) == 2)
            other.signal(signal.SIGKILL)
            killed = time.monotonic()
            assert await other.ended() == -signal.SIGKILL
            await caller.gone()
        spend = await lapsed(plane)
    assert time.monotonic() - killed < 2.0
    hold = OPENAI.hold(body)
    assert (spend.cost, spend.entry.flags, spend.event.outcome) == (hold, ("lapsed",), "cut_off")
    assert (spend.event.cost_source, spend.event.flags) == ("bound", ["estimated"])
    state = await plane.tenant.state(budget)
    assert (state.settled, state.held) == (hold + OPENAI.cost, 0)


async def test_a_worker_that_slept_through_its_lease_corrects_the_charge(new_plane: NewPlane) -> None:
    plane = await new_plane(lease_s=LEASE_S)
    plane.upstream.play = hang
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call()).status == 200
    await plane.tenant.ended(1)
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await go.wait()
        await whole(OPENAI.reply)(request, wire)

    plane.upstream.play = late
    async with process(plane.redis_url, plane.upstream.url, lease_seconds="1") as other:
        async with await Caller.connect(other.port) as caller:
            caller.send(plane.request())
            await until(lambda: len(plane.upstream.requests) == 2)
            other.signal(signal.SIGSTOP)
            first = await lapsed(plane)
            assert first.cost == OPENAI.hold(OPENAI.body())
            go.set()
            other.signal(signal.SIGCONT)
            assert (await caller.reply()).status == 200
        last = (await plane.tenant.ended(3))[2]
    assert (last.cost, last.entry.rank, last.entry.flags) == (OPENAI.cost, 2, ("trued_up",))
    assert last.entry.event_id == first.entry.event_id
    assert (await plane.tenant.state(budget)).settled == 2 * OPENAI.cost


# --- endings of a worker that is asked to end


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_worker_that_is_told_to_end_finishes_its_calls_first(plane: Plane, stream: bool) -> None:
    async with process(plane.redis_url, plane.upstream.url, drain_seconds="10") as other:
        go = asyncio.Event()

        async def late(request: Received, wire: Wire) -> None:
            if not stream:
                await go.wait()
                await whole(ANTHROPIC.reply)(request, wire)
                return
            wire.begin()
            wire.chunk(ANTHROPIC.pieces[0])
            await go.wait()
            for piece in ANTHROPIC.pieces[1:]:
                wire.chunk(piece)
            wire.end()

        plane.upstream.play = late
        budget = await plane.tenant.budget(WIDE)
        async with await Caller.connect(other.port) as caller:
            caller.send(plane.request(ANTHROPIC, stream=stream))
            await until(lambda: plane.upstream.requests)
            other.signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                while True:
                    try:
                        await (await Caller.connect(other.port)).leave()
                    except ConnectionRefusedError:
                        break
                    except ConnectionResetError:
                        pass  # it was in the queue of the listener that closed
                    await asyncio.sleep(0.01)
            go.set()
            reply = await caller.reply()
            assert (reply.status, reply.complete) == (200, True)
        assert await other.ended() == 0
    await assert_booked(plane, budget, ANTHROPIC.cost, "completed exact")


async def test_a_stream_that_outlives_the_drain_is_cut_and_charged_for_what_was_seen(new_plane: NewPlane) -> None:
    plane = await new_plane(drain_s=0.1)
    stopped = asyncio.Event()

    async def endless(request: Received, wire: Wire) -> None:
        wire.begin()
        for piece in ANTHROPIC.pieces[:4]:
            wire.chunk(piece)
        await wire.gone.wait()
        stopped.set()

    plane.upstream.play = endless
    budget = await plane.tenant.budget(WIDE)
    async with await plane.connect() as caller:
        caller.send(plane.request(ANTHROPIC, stream=True))
        await caller.head()
        await caller.chunks_until(b"two ")
        await plane.worker.stop()
        await caller.gone()
    assert stopped.is_set()
    await assert_booked(plane, budget, ANTHROPIC.price(1000, 3), "cut_off counted", flags=["estimated", "cancelled"])


async def test_a_whole_reply_that_outlives_the_drain_is_charged_its_hold(
    new_plane: NewPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_plane.server._SETTLE_S", 0.1)
    plane = await new_plane(drain_s=0.1)
    plane.upstream.play = hang
    budget = await plane.tenant.budget(WIDE)
    body = OPENAI.body(user="hang")
    async with await plane.connect() as caller:
        caller.send(plane.request(body=body))
        await until(lambda: plane.upstream.requests)
        await plane.worker.stop()
        await caller.gone()
    flags = ["estimated", "unknown"]
    await assert_booked(plane, budget, OPENAI.hold(body), "cut_off bound", flags=flags, status=None)


async def test_what_the_ledger_cannot_hear_any_more_is_given_up_at_the_end(
    new_plane: NewPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hold stays and will lapse: the worker does not wait for a ledger for ever."""
    monkeypatch.setattr("data_plane.wiring._FLUSH_S", 0.1)
    plane = await new_plane()
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await go.wait()
        await whole(OPENAI.reply)(request, wire)

    plane.upstream.play = late
    await plane.tenant.budget(WIDE)
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await until(lambda: plane.upstream.requests)
        await plane.redis.execute("CLIENT", "PAUSE", 600, "WRITE")
        go.set()
        assert (await caller.reply()).status == 200
    await plane.worker.stop()
    await plane.redis.execute("CLIENT", "UNPAUSE")
    assert plane.worker._journal.depth == 0


async def test_a_worker_that_ends_answers_no_new_call(new_plane: NewPlane) -> None:
    plane = await new_plane()
    async with await plane.connect() as caller:
        caller.send(plane.request())
        assert (await caller.reply()).status == 200
        await plane.worker.stop()
        await caller.gone()
    with pytest.raises(ConnectionRefusedError):
        await plane.call()
