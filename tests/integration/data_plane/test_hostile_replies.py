"""Providers that lie about what they used, how long a reply is and what it is: the price stays sane, the bytes pass."""

import asyncio
import gzip
from collections.abc import Callable

import orjson
import pytest

from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.expected import assert_refused
from tests.integration.data_plane.harness import Plane, until
from tests.integration.data_plane.surfaces import ANTHROPIC, GEMINI, OPENAI, SURFACES, Surface
from tests.integration.data_plane.upstream import Received, Wire, head, stream, whole

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
HUGE = 10**11


def lying(surface: Surface, spelling: bytes) -> bytes:
    """A reply whose count of output tokens is spelled like this."""
    name = {"openai": b"completion_tokens", "anthropic": b"output_tokens", "gemini": b"candidatesTokenCount"}
    field = b'"' + name[surface.name] + b'":'
    assert field + b"500" in surface.reply
    return surface.reply.replace(field + b"500", field + spelling)


@each_surface
@pytest.mark.parametrize("spelling", [b"-1", b"1.5", b'"500"', b"true", b"1e3", b"[]", b"999999999999999999999999"])
async def test_a_count_that_is_none_makes_the_report_none(plane: Plane, surface: Surface, spelling: bytes) -> None:
    plane.upstream.play = whole(lying(surface, spelling))
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface)).body == lying(surface, spelling)
    spend = await plane.tenant.spent()
    assert (spend.event.outcome, spend.event.cost_source) == ("completed", "counted")
    assert {"estimated", "no_usage"} <= set(spend.event.flags)
    assert 0 < spend.cost <= surface.hold(surface.body())
    assert (await plane.tenant.state(budget)).settled == spend.cost


@pytest.mark.parametrize("surface", [OPENAI, ANTHROPIC], ids=lambda surface: surface.name)
async def test_usage_of_more_than_a_million_dollars_costs_the_hold(plane: Plane, surface: Surface) -> None:
    plane.upstream.play = whole(lying(surface, b"%d" % HUGE))
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface)).status == 200
    flags = ["estimated", "usage_inconsistent"]
    await assert_booked(plane, budget, surface.hold(surface.body()), "completed bound", flags=flags)


@each_surface
async def test_an_overrun_is_booked_in_full(plane: Plane, surface: Surface) -> None:
    plane.upstream.play = whole(lying(surface, b"1000000"))
    budget = await plane.tenant.budget(surface.hold(surface.body()))
    assert (await plane.call(surface)).status == 200
    await assert_booked(plane, budget, surface.price(1000, 1_000_000), "completed exact")


@each_surface
async def test_usage_of_nothing_costs_nothing(plane: Plane, surface: Surface) -> None:
    reply = lying(surface, b"0").replace(b"1000", b"0")
    plane.upstream.play = whole(reply)
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface)).status == 200
    await assert_booked(plane, budget, 0, "completed exact")


async def test_a_reply_of_another_model_costs_that_models_price(plane: Plane) -> None:
    plane.upstream.play = whole(OPENAI.reply.replace(b"gpt-4o-2024-08-06", b"gpt-4o-mini"))
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call()).status == 200
    event = (await assert_booked(plane, budget, 150 + 300, "completed exact")).event
    assert (event.model, event.response_model, event.priced) == ("gpt-4o", "gpt-4o-mini", "true")


async def test_a_reply_of_a_model_nobody_knows_costs_the_price_asked_for(plane: Plane) -> None:
    plane.upstream.play = whole(OPENAI.reply.replace(b"gpt-4o-2024-08-06", b"house-model-\xc3\xa9\\n"))
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call()).status == 200
    event = (await assert_booked(plane, budget, OPENAI.cost, "completed exact")).event
    assert (event.response_model, event.priced) == ("house-model-\u00e9\n", "gap")


@each_surface
async def test_a_reply_that_unpacks_without_end_is_passed_on_and_costs_the_hold(plane: Plane, surface: Surface) -> None:
    bomb = gzip.compress(b" " * 40_000_000, compresslevel=1)
    plane.upstream.play = whole(bomb, headers=[b"Content-Encoding: gzip"])
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, headers=[("Accept-Encoding", "gzip")])
    assert reply.body == bomb
    flags = ["estimated", "unparsable"]
    await assert_booked(plane, budget, surface.hold(surface.body()), "completed bound", flags=flags)


async def interim(request: Received, wire: Wire) -> None:
    wire.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    await whole(OPENAI.reply)(request, wire)


async def test_interim_replies_are_not_the_reply(plane: Plane) -> None:
    plane.upstream.play = interim
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call()
    assert (reply.status, reply.body, reply.header("Link")) == (200, OPENAI.reply, None)
    await assert_booked(plane, budget, OPENAI.cost, "completed exact")


async def doubled(request: Received, wire: Wire) -> None:
    reply = head(200, b"application/json", b"Content-Length: %d" % len(OPENAI.reply)) + OPENAI.reply
    wire.send(reply + head(200, b"application/json", b"Content-Length: 4") + b"evil")


async def test_a_second_reply_nobody_asked_for_reaches_nobody(plane: Plane) -> None:
    plane.upstream.play = doubled
    async with await plane.connect() as client:
        for _ in range(3):
            client.send(plane.request())
            assert (await client.reply()).body == OPENAI.reply
    assert plane.upstream.connections == 3, "a connection that says more than it was asked is not used again"


async def two_lengths(request: Received, wire: Wire) -> None:
    wire.send(head(200, b"application/json", b"Content-Length: 5", b"Content-Length: 6") + b"123456")


async def length_and_chunks(request: Received, wire: Wire) -> None:
    wire.send(head(200, b"application/json", b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n")


async def bad_chunks(request: Received, wire: Wire) -> None:
    wire.begin(b"application/json")
    wire.send(b"zz\r\nhello\r\n")


@pytest.mark.parametrize("play", [two_lengths, length_and_chunks, bad_chunks], ids=lambda play: play.__name__)
async def test_a_reply_with_two_ends_is_an_error_and_costs_the_hold(plane: Plane, play: Callable[..., None]) -> None:
    plane.upstream.play = play  # type: ignore[assignment]
    budget = await plane.tenant.budget(WIDE)
    assert_refused(await plane.call(), 502, "upstream_error", surface=OPENAI)
    spend = await plane.tenant.spent()
    assert (spend.cost, spend.event.cost_source) == (OPENAI.hold(OPENAI.body()), "bound")
    assert (await plane.tenant.state(budget)).held == 0


@each_surface
async def test_usage_told_twice_in_a_stream_counts_once(plane: Plane, surface: Surface) -> None:
    at = {"openai": -2, "anthropic": -2, "gemini": -1}[surface.name]
    pieces = [*surface.pieces[:at], surface.pieces[at], *surface.pieces[at:]]
    plane.upstream.play = stream(pieces)
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface, stream=True)).complete
    await assert_booked(plane, budget, surface.cost, "completed exact")


@each_surface
async def test_junk_between_the_events_of_a_stream_passes_and_changes_no_price(plane: Plane, surface: Surface) -> None:
    junk = [b": ping\n\n", b"event: ping\ndata: {}\n\n", b"data: [1]\n\n", b"id: 7\nretry: 1\n\n", b"data:\n\n"]
    pieces = [*junk, *surface.pieces[:-1], *junk, surface.pieces[-1]]
    plane.upstream.play = stream(pieces)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    assert reply.body.startswith(b"".join(junk))
    spend = await plane.tenant.spent()
    assert (spend.cost, spend.event.cost_source) == (surface.cost, "exact")
    assert (await plane.tenant.state(budget)).settled == surface.cost


async def test_an_event_of_ten_megabytes_passes_and_its_usage_counts(plane: Plane) -> None:
    document = orjson.loads(GEMINI.pieces[-1].removeprefix(b"data: "))
    document["candidates"][0]["content"]["parts"][0]["text"] = "x" * 10_000_000
    giant = b"data: " + orjson.dumps(document) + b"\n\n"
    plane.upstream.play = stream([giant[at : at + 500_000] for at in range(0, len(giant), 500_000)])
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(GEMINI, stream=True)
    assert reply.body == giant
    spend = await plane.tenant.spent()
    assert (spend.event.input_tokens, spend.event.output_tokens) == (1000, 500)
    assert (await plane.tenant.state(budget)).settled == spend.cost


async def test_a_client_that_reads_nothing_pauses_the_provider_and_loses_no_byte(plane: Plane) -> None:
    text = b'data: {"type":"ping","padding":"' + b"p" * 60_000 + b'"}\n\n'
    sent = 0

    async def play(request: Received, wire: Wire) -> None:
        nonlocal sent
        wire.begin()
        for piece in ANTHROPIC.pieces[:3]:
            wire.chunk(piece)
        while sent < 400 and not wire.gone.is_set():
            wire.chunk(text)
            sent += 1
            await until(lambda: wire._transport.get_write_buffer_size() <= 1_000_000)
        for piece in ANTHROPIC.pieces[3:]:
            wire.chunk(piece)
        wire.end()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    async with await plane.connect() as client:
        client.send(plane.request(ANTHROPIC, stream=True))
        reply = await client.head()
        client.stop_reading()
        (connection,) = plane.worker._server.connections
        await until(lambda: connection.write_paused)
        held_at = sent
        await asyncio.sleep(0.05)
        assert sent < 400
        assert sent - held_at < 100, "the provider was not stopped"
        client.read_on()
        await client.body_of(reply)
    wanted = b"".join(ANTHROPIC.pieces[:3]) + text * 400 + b"".join(ANTHROPIC.pieces[3:])
    assert (reply.complete, len(reply.body)) == (True, len(wanted))
    assert reply.body == wanted
    await assert_booked(plane, budget, ANTHROPIC.cost, "completed exact")
