"""A call with one reply has one price, whatever becomes of provider, client and reply."""

import asyncio
import gzip
import socket
import zlib
from collections.abc import Callable

import orjson
import pytest

from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.caller import Caller
from tests.integration.data_plane.expected import assert_refused
from tests.integration.data_plane.harness import Plane, until, working
from tests.integration.data_plane.surfaces import OPENAI, SURFACES, Surface
from tests.integration.data_plane.upstream import Received, Wire, head, whole

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)


def without_usage(surface: Surface) -> bytes:
    document = orjson.loads(surface.reply)
    document.pop("usage", None)
    document.pop("usageMetadata", None)
    return orjson.dumps(document)


def bound_in(surface: Surface) -> int:
    """The input tokens that are assumed where none were reported: one for every two bytes of the request."""
    return -(-len(surface.body()) // 2)


@each_surface
async def test_a_reply_with_usage_costs_exactly_that(plane: Plane, surface: Surface) -> None:
    budget = await plane.tenant.budget(WIDE)
    headers = [("X-NullSpend-Session", "s1"), ("Idempotency-Key", "k1"), ("X-NullSpend-Trace-Id", "ab" * 16)]
    reply = await plane.call(surface, headers=headers)
    assert reply.status == 200
    event = (await assert_booked(plane, budget, surface.cost, "completed exact")).event
    assert reply.header("X-NullSpend-Request-Id") == event.id
    assert reply.header("X-NullSpend-Trace-Id") == event.trace_id == "ab" * 16
    assert (event.session_id, event.idempotency_key) == ("s1", "k1")
    assert (event.org_id, event.api_key_id) == (plane.tenant.id, plane.key.id)
    assert (event.provider, event.model, event.streaming) == (surface.provider, surface.model, False)
    assert (event.input_tokens, event.output_tokens) == (1000, 500)
    assert event.estimated_cost_microdollars == surface.hold(surface.body())
    assert (event.trust, event.budget_status, event.priced) == ("enforced", "approved", "true")
    assert 0 <= (event.upstream_duration_ms or 0) <= event.duration_ms < 10_000


@each_surface
@pytest.mark.parametrize("status", [300, 304, 307, 400, 401, 404, 413, 429, 500, 503, 529])
async def test_what_the_provider_refuses_costs_nothing(plane: Plane, surface: Surface, status: int) -> None:
    body = b"" if status == 304 else b'{"error" : {"message":"no" }}\n'
    plane.upstream.play = whole(body, status=status, headers=[b"retry-after: 7", b"x-should-retry: true"])
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface)
    assert (reply.status, reply.body) == (status, body)
    assert (reply.header("retry-after"), reply.header("x-should-retry")) == ("7", "true")
    assert not reply.names() & {"x-nullspend-error", "x-nullspend-denied"}
    assert ("x-nullspend-budget-limit" in reply.names()) == (status < 400)
    await assert_booked(plane, budget, 0, "refused exact", status=status)


@each_surface
async def test_an_error_with_usage_costs_exactly_that(plane: Plane, surface: Surface) -> None:
    document = {**orjson.loads(surface.reply), "error": {"message": "late"}}
    plane.upstream.play = whole(orjson.dumps(document), status=500)
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface)).status == 500
    await assert_booked(plane, budget, surface.cost, "refused exact", status=500)


@each_surface
async def test_a_provider_that_cannot_be_reached_was_never_sent_to(plane: Plane, surface: Surface) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # a port on which nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        budget = await plane.tenant.budget(WIDE)
        async with working(plane.redis_url, url) as worker:
            async with await Caller.connect(worker.port) as caller:
                caller.send(plane.request(surface))
                reply = await caller.reply()
            error = assert_refused(reply, 502, "upstream_unreachable", surface=surface)
            assert error["details"] == {"provider": surface.provider, "phase": "connect"}
            await assert_booked(plane, budget, 0, "never_sent exact", status=None)


async def reset(request: Received, wire: Wire) -> None:
    wire.reset()


async def close(request: Received, wire: Wire) -> None:
    wire.close()


async def garbage(request: Received, wire: Wire) -> None:
    wire.send(b"SSH-2.0-OpenSSH\r\n\r\n")


async def half_a_head(request: Received, wire: Wire) -> None:
    wire.send(b"HTTP/1.1 200 OK\r\nContent-")
    wire.close()


@each_surface
@pytest.mark.parametrize("play", [reset, close, garbage, half_a_head], ids=lambda play: play.__name__)
async def test_a_reply_that_never_begins_costs_the_hold(
    plane: Plane, surface: Surface, play: Callable[..., None]
) -> None:
    plane.upstream.play = play  # type: ignore[assignment]
    budget = await plane.tenant.budget(WIDE)
    error = assert_refused(await plane.call(surface), 502, "upstream_error", surface=surface)
    assert error["details"] == {"provider": surface.provider, "phase": "first_byte"}
    hold = surface.hold(surface.body())
    await assert_booked(plane, budget, hold, "cut_off bound", flags=["estimated", "unknown"], status=None)
    assert len(plane.upstream.requests) == 1, "what may have been billed is not repeated"


@each_surface
async def test_a_short_reply_that_breaks_off_is_an_error_and_costs_the_hold(plane: Plane, surface: Surface) -> None:
    async def half(request: Received, wire: Wire) -> None:
        wire.send(head(200, b"application/json", b"Content-Length: 5000") + surface.reply[:50])
        wire.close()

    plane.upstream.play = half
    budget = await plane.tenant.budget(WIDE)
    error = assert_refused(await plane.call(surface), 502, "upstream_error", surface=surface)
    assert error["details"] == {"provider": surface.provider, "phase": "body"}
    flags = ["estimated", "interrupted", "unparsable"]
    await assert_booked(plane, budget, surface.hold(surface.body()), "cut_off bound", flags=flags)


async def test_a_long_reply_that_breaks_off_is_cut_at_the_client_too(plane: Plane) -> None:
    async def half(request: Received, wire: Wire) -> None:
        wire.send(head(200, b"application/json", b"Content-Length: 1000000") + OPENAI.reply[:-1] + b" " * 500_000)
        wire.close()

    plane.upstream.play = half
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call()
    assert (reply.status, reply.complete) == (200, False)
    assert reply.body == OPENAI.reply[:-1] + b" " * 500_000
    flags = ["estimated", "interrupted", "unparsable"]
    await assert_booked(plane, budget, OPENAI.hold(OPENAI.body()), "cut_off bound", flags=flags)


@each_surface
async def test_a_reply_without_usage_is_counted(plane: Plane, surface: Surface) -> None:
    shown = {"openai": 4, "anthropic": 2, "gemini": 2}[surface.name]
    plane.upstream.play = whole(without_usage(surface))
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call(surface)).body == without_usage(surface)
    cost = surface.price(bound_in(surface), shown)
    await assert_booked(plane, budget, cost, "completed counted", flags=["estimated", "no_usage"])


@each_surface
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"choices":[', b"[]", b"\xff\xfe", b"null"])
async def test_a_reply_that_cannot_be_read_costs_the_hold(plane: Plane, surface: Surface, body: bytes) -> None:
    plane.upstream.play = whole(body)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface)
    assert (reply.status, reply.body, reply.complete) == (200, body, True)
    hold = surface.hold(surface.body())
    await assert_booked(plane, budget, hold, "completed bound", flags=["estimated", "unparsable"])


@each_surface
@pytest.mark.parametrize(
    ("coding", "encode"), [(b"gzip", gzip.compress), (b"x-gzip", gzip.compress), (b"deflate", zlib.compress)]
)
async def test_a_compressed_reply_is_passed_on_as_it_is_and_metered(
    plane: Plane, surface: Surface, coding: bytes, encode: Callable[[bytes], bytes]
) -> None:
    body = encode(surface.reply)
    plane.upstream.play = whole(body, headers=[b"Content-Encoding: " + coding])
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, headers=[("Accept-Encoding", "gzip, deflate, br")])
    assert (reply.body, reply.header("content-encoding")) == (body, coding.decode())
    await assert_booked(plane, budget, surface.cost, "completed exact")


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip"])
async def test_a_reply_in_a_coding_nobody_can_read_is_passed_on_and_costs_the_hold(plane: Plane, coding: bytes) -> None:
    plane.upstream.play = whole(b"\x1b\x01\x00", headers=[b"Content-Encoding: " + coding])
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call()).body == b"\x1b\x01\x00"
    flags = ["estimated", "unparsable"]
    await assert_booked(plane, budget, OPENAI.hold(OPENAI.body()), "completed bound", flags=flags)


async def test_an_error_in_a_200_costs_what_was_sent(plane: Plane) -> None:
    plane.upstream.play = whole(b'{"error":{"message":"overloaded"}}')
    budget = await plane.tenant.budget(WIDE)
    assert (await plane.call()).status == 200
    cost = OPENAI.price(bound_in(OPENAI), 0)
    await assert_booked(plane, budget, cost, "completed counted", flags=["estimated", "provider_error"])


@each_surface
async def test_when_the_client_leaves_the_reply_is_awaited_and_charged_exactly(plane: Plane, surface: Surface) -> None:
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await go.wait()
        assert not wire.gone.is_set(), "the provider bills the whole reply: it is read to its end"
        await whole(surface.reply)(request, wire)

    plane.upstream.play = late
    budget = await plane.tenant.budget(WIDE)
    async with await plane.connect() as caller:
        caller.send(plane.request(surface))
        await until(lambda: plane.upstream.requests)
    await until(lambda: not plane.worker._server.connections)
    assert len(await plane.tenant.holds()) == 1
    go.set()
    await assert_booked(plane, budget, surface.cost, "completed exact", flags=["cancelled"])


async def test_when_a_client_leaves_that_did_not_read_its_reply_the_provider_is_read_on(plane: Plane) -> None:
    """The slow reader had paused the provider: with its end, nothing else would ever resume it."""
    body = OPENAI.reply[:-1] + b" " * 24_000_000 + b"}"
    plane.upstream.play = whole(body)
    budget = await plane.tenant.budget(WIDE)
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await caller.head()
        caller.stop_reading()
        (connection,) = plane.worker._server.connections
        await until(lambda: connection.write_paused)
    await assert_booked(plane, budget, OPENAI.cost, "completed exact", flags=["cancelled"])


async def test_a_client_that_left_before_the_hold_was_never_sent_for(plane: Plane) -> None:
    budget = await plane.tenant.budget(WIDE)
    await plane.call()
    await plane.tenant.ended(1)
    await plane.redis.execute("CLIENT", "PAUSE", 60_000, "WRITE")
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await until(lambda: plane.worker._server.in_flight)
    await until(lambda: not plane.worker._server.connections)
    await plane.redis.execute("CLIENT", "UNPAUSE")
    left = (await plane.tenant.ended(2))[1]
    assert (left.cost, left.event.outcome, left.event.cost_source) == (0, "never_sent", "exact")
    assert len(plane.upstream.requests) == 1
    assert (await plane.tenant.state(budget)).held == 0
