"""A stream has one price too: its usage where that was told, and otherwise what of it was seen."""

import asyncio
import gzip
import json
import socket
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.caller import Caller
from tests.integration.data_plane.expected import assert_refused
from tests.integration.data_plane.harness import Plane, until, working
from tests.integration.data_plane.surfaces import ANTHROPIC, GEMINI, OPENAI, SURFACES, Surface
from tests.integration.data_plane.upstream import JSON, Received, Wire, stream, whole

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
Broken = Callable[[Wire], None]


def bound_in(surface: Surface) -> int:
    return -(-len(surface.body(stream=True)) // 2)


def hold(surface: Surface) -> int:
    return surface.hold(surface.body(stream=True))


def begun(surface: Surface) -> tuple[bytes, ...]:
    """A stream up to its second piece of text."""
    upto = 1 + next(n for n, piece in enumerate(surface.pieces) if b"two " in piece)
    return surface.pieces[:upto]


def begun_cost(surface: Surface) -> int:
    """`one two ` are 8 bytes, so 3 tokens of output; the input as far as the provider told it.

    Gemini reports with every piece, and its report of 4 tokens covers what was shown.
    """
    return {
        "openai": surface.price(bound_in(surface), 3),
        "anthropic": surface.price(1000, 3),
        "gemini": surface.price(1000, 4),
    }[surface.name]


def breaking_off(pieces: Sequence[bytes], broken: Broken) -> Callable[[Received, Wire], Awaitable[None]]:
    async def play(request: Received, wire: Wire) -> None:
        wire.begin()
        for piece in pieces:
            wire.chunk(piece)
        await asyncio.sleep(0.02)  # a reset would overtake what was written
        broken(wire)

    return play


def documents(body: bytes) -> list[Any]:
    """The data of every event; what is no JSON as text."""
    found = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [text.decode() if text == b"[DONE]" else json.loads(text) for text in found]


@each_surface
async def test_a_stream_with_usage_costs_exactly_that(plane: Plane, surface: Surface) -> None:
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert (reply.status, reply.complete) == (200, True)
    event = (await assert_booked(plane, budget, surface.cost, "completed exact")).event
    assert event.streaming is True
    assert (event.input_tokens, event.output_tokens) == (1000, 500)
    assert event.ttfb_ms is not None


@each_surface
async def test_a_stream_that_ends_without_its_last_word_costs_its_usage(plane: Plane, surface: Surface) -> None:
    """OpenAI without `[DONE]`, Anthropic without `message_stop`; Gemini has no such word."""
    pieces = surface.pieces[: {"openai": -1, "anthropic": -1, "gemini": 99}[surface.name]]
    plane.upstream.play = stream(pieces)
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface, stream=True)).complete
    await assert_booked(plane, budget, surface.cost, "completed exact")


async def test_a_stream_without_usage_is_counted(plane: Plane) -> None:
    plane.upstream.play = stream([*OPENAI.pieces[:4], b"data: [DONE]\n\n"])
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(stream=True)).complete
    cost = OPENAI.price(bound_in(OPENAI), 5)  # 13 bytes
    await assert_booked(plane, budget, cost, "completed counted", flags=["estimated", "no_usage"])


async def test_a_claude_stream_without_its_last_usage_is_counted_from_its_first(plane: Plane) -> None:
    pieces = [piece for piece in ANTHROPIC.pieces if b"message_delta" not in piece]
    plane.upstream.play = stream(pieces)
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(ANTHROPIC, stream=True)).complete
    await assert_booked(plane, budget, ANTHROPIC.price(1000, 5), "completed counted", flags=["estimated", "no_usage"])


@each_surface
@pytest.mark.parametrize("broken", [Wire.close, Wire.reset], ids=["closed", "reset"])
async def test_a_stream_that_breaks_off_ends_with_an_error_event_and_is_counted(
    plane: Plane, surface: Surface, broken: Broken
) -> None:
    plane.upstream.play = breaking_off(begun(surface), broken)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert (reply.status, reply.complete) == (200, True), "the error is the end of the stream"
    error = documents(reply.body)[-1]["error"]
    assert error["message"].endswith("[upstream_interrupted]")
    assert "[DONE]" not in documents(reply.body)
    match surface.name:
        case "openai":
            assert (error["type"], error["code"], error["param"]) == ("upstream_interrupted",) * 2 + (None,)
        case "anthropic":
            assert error["type"] == "upstream_interrupted"
            assert b"\n\nevent: error\ndata: " in reply.body
        case "gemini":
            assert (error["code"], error["status"]) == (503, "UNAVAILABLE")
            assert b'\n\ndata: {"error":' in reply.body
    await assert_booked(plane, budget, begun_cost(surface), "cut_off counted", flags=["estimated", "interrupted"])


@each_surface
async def test_a_stream_that_breaks_off_within_an_event_still_ends_readably(plane: Plane, surface: Surface) -> None:
    pieces = begun(surface)
    half = surface.pieces[len(pieces)][:40]
    plane.upstream.play = breaking_off([*pieces, half], Wire.close)
    await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    events = [event for event in reply.body.split(b"\n\n") if event]
    assert b"upstream_interrupted" in events[-1]
    assert half.strip() not in events[-1], "the error is an event of its own"
    if surface is OPENAI:  # its events are passed on whole, so none is broken
        assert documents(reply.body)[-1]["error"]


@each_surface
async def test_a_stream_that_breaks_off_before_its_first_event_is_counted(plane: Plane, surface: Surface) -> None:
    plane.upstream.play = breaking_off([], Wire.close)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert documents(reply.body)[-1]["error"]
    cost = surface.price(bound_in(surface), 0)
    if surface is GEMINI:  # it may have been thinking
        assert (await plane.tenant.spent()).cost >= cost
    else:
        await assert_booked(plane, budget, cost, "cut_off counted", flags=["estimated", "interrupted"])


ERRORS = {
    "openai": b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"no"}}\n\n',
    "gemini": b'data: {"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}\n\n',
}


@each_surface
async def test_the_providers_own_error_event_is_passed_on_and_what_came_before_is_counted(
    plane: Plane, surface: Surface
) -> None:
    error = ERRORS[surface.name]
    plane.upstream.play = stream([*begun(surface), error])
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert reply.body.endswith(error)
    cost = begun_cost(surface)
    await assert_booked(plane, budget, cost, "completed counted", flags=["estimated", "provider_error"])


@each_surface
@pytest.mark.parametrize("status", [400, 429, 500, 529])
async def test_a_refused_stream_costs_nothing(plane: Plane, surface: Surface, status: int) -> None:
    plane.upstream.play = whole(b'{"error":{}}', status=status)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert (reply.status, reply.body) == (status, b'{"error":{}}')
    await assert_booked(plane, budget, 0, "refused exact", status=status)


@each_surface
async def test_a_whole_reply_to_a_request_for_a_stream_costs_its_usage(plane: Plane, surface: Surface) -> None:
    plane.upstream.play = whole(surface.reply)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert reply.body == surface.reply
    await assert_booked(plane, budget, surface.cost, "completed exact")


@each_surface
async def test_a_stream_that_is_none_is_passed_on_and_costs_the_hold(plane: Plane, surface: Surface) -> None:
    plane.upstream.play = stream([b"<html>busy", b"</html>"])
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert reply.body == b"<html>busy</html>"
    await assert_booked(plane, budget, hold(surface), "completed bound", flags=["estimated", "unparsable"])


@each_surface
@pytest.mark.parametrize("wbits", [31, 15], ids=["gzip", "deflate"])
async def test_a_compressed_stream_is_passed_on_as_it_is_and_metered(
    plane: Plane, surface: Surface, wbits: int
) -> None:
    packer = zlib.compressobj(wbits=wbits)
    packed = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in surface.pieces] + [packer.flush()]
    plane.upstream.play = stream(packed, headers=[b"Content-Encoding: " + (b"gzip" if wbits == 31 else b"deflate")])
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True, headers=[("Accept-Encoding", "gzip, deflate")])
    assert reply.body == b"".join(packed)
    await assert_booked(plane, budget, surface.cost, "completed exact")


@each_surface
async def test_a_compressed_stream_that_breaks_off_is_cut_at_the_client_too(plane: Plane, surface: Surface) -> None:
    async def play(request: Received, wire: Wire) -> None:
        packer = zlib.compressobj(wbits=31)
        wire.begin(headers=[b"Content-Encoding: gzip"])
        wire.chunk(packer.compress(b"".join(begun(surface))) + packer.flush(zlib.Z_SYNC_FLUSH))
        wire.close()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert not reply.complete, "no plain event can follow compressed ones"
    assert zlib.decompressobj(wbits=31).decompress(reply.body) == b"".join(begun(surface))
    await assert_booked(plane, budget, begun_cost(surface), "cut_off counted", flags=["estimated", "interrupted"])


@each_surface
async def test_when_the_client_leaves_the_provider_is_stopped_and_what_was_seen_is_charged(
    plane: Plane, surface: Surface
) -> None:
    stopped = asyncio.Event()

    async def play(request: Received, wire: Wire) -> None:
        wire.begin()
        for piece in begun(surface):
            wire.chunk(piece)
        await wire.gone.wait()
        stopped.set()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    async with await plane.connect() as caller:
        caller.send(plane.request(surface, stream=True))
        assert (await caller.head()).status == 200
        await caller.chunks_until(b"two ")
    async with asyncio.timeout(5):
        await stopped.wait()
    await assert_booked(plane, budget, begun_cost(surface), "cut_off counted", flags=["estimated", "cancelled"])


@each_surface
async def test_a_client_that_leaves_after_the_last_event_cancelled_nothing(plane: Plane, surface: Surface) -> None:
    async def play(request: Received, wire: Wire) -> None:
        wire.begin()
        for piece in surface.pieces:
            wire.chunk(piece)
        await wire.gone.wait()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    last = {"openai": b"[DONE]", "anthropic": b"message_stop", "gemini": b"STOP"}[surface.name]
    async with await plane.connect() as caller:
        caller.send(plane.request(surface, stream=True))
        await caller.head()
        await caller.chunks_until(last)
    await assert_booked(plane, budget, surface.cost, "completed exact")


@each_surface
async def test_when_the_client_leaves_before_the_first_byte_the_hold_is_charged(plane: Plane, surface: Surface) -> None:
    stopped = asyncio.Event()

    async def play(request: Received, wire: Wire) -> None:
        await wire.gone.wait()
        stopped.set()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    async with await plane.connect() as caller:
        caller.send(plane.request(surface, stream=True))
        await until(lambda: plane.upstream.requests)
    async with asyncio.timeout(5):
        await stopped.wait()
    flags = ["estimated", "cancelled"]
    await assert_booked(plane, budget, hold(surface), "cut_off bound", flags=flags, status=None)


async def test_when_the_client_leaves_while_the_provider_is_dialled_nothing_was_sent(plane: Plane) -> None:
    """A listener with a full queue: the connection is neither made nor refused."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        budget = await plane.tenant.budget(WIDE)
        async with working(plane.redis_url, f"http://127.0.0.1:{listener.getsockname()[1]}") as worker:
            async with await Caller.connect(worker.port) as caller:
                caller.send(plane.request(stream=True))
                await until(plane.tenant.holds)
            await assert_booked(plane, budget, 0, "never_sent exact", status=None)


async def test_a_stream_that_never_begins_costs_the_hold(plane: Plane) -> None:
    async def play(request: Received, wire: Wire) -> None:
        wire.reset()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    assert_refused(await plane.call(stream=True), 502, "upstream_error", surface=OPENAI)
    flags = ["estimated", "unknown"]
    await assert_booked(plane, budget, hold(OPENAI), "cut_off bound", flags=flags, status=None)


async def test_a_gemini_stream_as_an_array_is_metered_and_broken_off_as_an_array(plane: Plane) -> None:
    target = GEMINI.stream_path.partition("?")[0]
    elements = [piece.removeprefix(b"data: ").rstrip() for piece in GEMINI.pieces]
    plane.upstream.play = stream([b"[" + elements[0], b",\r\n" + elements[1], b",\r\n" + elements[2], b"]"], kind=JSON)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(GEMINI, stream=True, target=target)
    assert [sorted(element) for element in reply.json()] == [sorted(json.loads(element)) for element in elements]
    await assert_booked(plane, budget, GEMINI.cost, "completed exact")
    plane.upstream.play = breaking_off([b"[" + elements[0], b",\r\n" + elements[1]], Wire.close)
    broken = (await plane.call(GEMINI, stream=True, target=target)).json()
    assert len(broken) == 3
    assert broken[-1]["error"]["status"] == "UNAVAILABLE"


async def test_a_whole_body_in_place_of_a_stream_that_breaks_off_is_cut_at_the_client_too(plane: Plane) -> None:
    """Nothing can be said any more within one JSON object, and a clean end would pass for a complete reply."""
    plane.upstream.play = breaking_off([GEMINI.reply[:60]], Wire.close)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(GEMINI, stream=True)
    assert (reply.body, reply.complete) == (GEMINI.reply[:60], False)
    flags = ["estimated", "interrupted", "unparsable"]
    await assert_booked(plane, budget, hold(GEMINI), "cut_off bound", flags=flags)


async def test_a_gzip_body_of_a_json_error_in_a_stream_is_metered(plane: Plane) -> None:
    plane.upstream.play = whole(gzip.compress(OPENAI.reply), headers=[b"Content-Encoding: gzip"])
    budget = await plane.tenant.budget(WIDE)
    assert gzip.decompress((await plane.call(stream=True)).body) == OPENAI.reply
    await assert_booked(plane, budget, OPENAI.cost, "completed exact")
