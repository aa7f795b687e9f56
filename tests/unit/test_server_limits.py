"""Every row of the limits: what is too large, too slow or too many, and how the client hears of it."""

import asyncio
import json

import pytest

from data_plane.http_message import BodiesOverloaded, BodyTimeout, BodyTooLarge, Request, Responder
from data_plane.server_limits import Limits
from tests.fakes.wire import Gate, Recorder, Wire, head_of, turns

GET = b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"
HOST = b"Host: gw\r\n"


def post(length: int) -> bytes:
    return b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: %d\r\n\r\n" % length


async def in_pieces(wire: Wire, data: bytes, size: int) -> bytes:
    client = wire.connect()
    for at in range(0, len(data), size):
        if client.closed:
            break
        client.send(data[at : at + size])
    await turns()
    return client.received


@pytest.mark.parametrize("size", [1 << 20, 1000])
async def test_a_request_line_may_have_8_kib_and_not_a_byte_more(size: int) -> None:
    for extra, status in ((0, 200), (1, 414)):
        line = b"GET /" + b"a" * (8192 - 14 + extra) + b" HTTP/1.1"
        assert len(line) == 8192 + extra
        reply = await in_pieces(Wire(Recorder()), line + b"\r\n" + HOST + b"\r\n", size)
        assert head_of(reply)[0] == status
        if status == 414:
            assert b"headers_too_large" in reply
            assert head_of(reply)[1][b"connection"] == b"close"


@pytest.mark.parametrize("size", [1 << 20, 1000])
async def test_headers_may_have_32_kib_and_not_a_byte_more(size: int) -> None:
    line = b"GET /a HTTP/1.1\r\n"
    for extra, status in ((0, 200), (1, 431)):
        headers = HOST + b"X: "
        headers += b"a" * (32 * 1024 - len(headers) - 4 + extra) + b"\r\n\r\n"
        assert len(headers) == 32 * 1024 + extra
        assert head_of(await in_pieces(Wire(Recorder()), line + headers, size))[0] == status


async def test_a_request_may_have_100_headers_and_not_one_more() -> None:
    for count, status in ((100, 200), (101, 431)):
        headers = HOST + b"".join(b"X-%d: y\r\n" % n for n in range(count - 1))
        assert head_of(await Wire(Recorder()).exchange(b"GET /a HTTP/1.1\r\n" + headers + b"\r\n"))[0] == status


async def test_headers_that_do_not_end_are_refused_before_they_fill_the_memory() -> None:
    wire = Wire(Recorder())
    client = wire.connect()
    sent = 0
    client.send(b"GET /a HTTP/1.1\r\n" + HOST)
    while not client.closed:
        client.send(b"X-Header: " + b"a" * 500 + b"\r\n")
        sent += 512
        assert sent < 40_000
    assert head_of(client.received)[0] == 431


async def test_headers_must_be_complete_within_10_s_of_the_first_byte() -> None:
    wire = Wire(Recorder())
    client = wire.connect()
    wire.wheel.pass_time(30)  # before the first byte only the idle time counts
    client.send(b"GET /a HTTP/1.1\r\n")
    for _ in range(9):
        wire.wheel.pass_time(1)
        client.send(b"X: y\r\n")  # a slowloris
    assert len(client.received) == 0
    wire.wheel.pass_time(1.5)
    assert head_of(client.received)[0] == 408
    assert b"request_timeout" in client.received
    assert client.closed


async def test_a_pipelined_request_has_the_same_10_s() -> None:
    wire = Wire(Recorder())
    client = wire.connect()
    client.send(GET + GET[:5])
    await turns()
    wire.wheel.pass_time(11)
    assert client.received.endswith(b'"message": "The request headers did not arrive in time."}')


async def test_an_idle_connection_is_closed_without_a_word_after_75_s() -> None:
    wire = Wire(Recorder())
    fresh, used = wire.connect(), wire.connect()
    await used.ask(GET)
    wire.wheel.pass_time(74)
    assert [fresh.closed, used.closed] == [False, False]
    await used.ask(GET)
    wire.wheel.pass_time(2)
    assert [fresh.closed, used.closed] == [True, False]
    assert len(fresh.received) == 0
    wire.wheel.pass_time(74)
    assert used.transport.closing
    await turns()
    assert not wire.server.connections


async def test_a_connection_in_flight_is_not_idle() -> None:
    gate = Gate()
    wire = Wire(gate)
    client = wire.connect()
    client.send(GET)
    await turns()
    wire.wheel.pass_time(1_000)
    gate.open.set()
    await turns()
    assert head_of(client.received)[0] == 200


async def test_a_connection_serves_a_limited_number_of_requests() -> None:
    client = Wire(Recorder(), Limits(requests_per_connection=3)).connect()
    for _ in range(2):
        assert b"Connection" not in await client.ask(GET)
    assert head_of(await client.ask(GET))[1][b"connection"] == b"close"
    assert client.transport.closing


# --- bodies ---


async def test_a_body_over_its_limit_is_413_with_the_limit_whether_announced_or_not() -> None:
    app = Recorder(body_limit=10)
    wire = Wire(app)
    for data in (
        post(11) + b"x" * 11,
        post(11),
        b"POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n5\r\nabcde\r\n0\r\n\r\n",
    ):
        client = wire.connect()
        client.send(data)
        await turns()
        assert head_of(client.received)[0] == 413
        assert "10 bytes" in json.loads(head_of(client.received)[2])["message"]
    assert not app.bodies
    assert head_of(await wire.exchange(post(10) + b"x" * 10))[0] == 200


async def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large() -> None:
    seen: list[Exception] = []

    async def app(request: Request, _responder: Responder) -> None:
        try:
            await request.body(1_000)
        except BodyTooLarge as error:
            seen.append(error)
            raise

    client = Wire(app).connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
    await turns()
    for _ in range(3):
        client.send(b"190\r\n" + b"x" * 400 + b"\r\n")
    await turns()
    assert head_of(client.received)[0] == 413
    assert head_of(client.received)[1][b"connection"] == b"close"
    error = seen[0]
    assert isinstance(error, BodyTooLarge)
    assert error.details == {"limit_bytes": 1_000}


async def test_a_refused_body_is_discarded_for_a_moment_so_that_the_client_can_read_why() -> None:
    wire = Wire(Recorder(body_limit=10))
    client = wire.connect()
    client.send(post(1_000_000) + b"x" * 100)
    await turns()
    assert client.transport.eof_written
    assert not client.transport.closing
    client.send(b"x" * 100_000)
    wire.wheel.pass_time(3)
    assert client.transport.closing


async def test_a_body_nobody_asks_for_is_read_ahead_only_a_little() -> None:
    gate = Gate()
    client = Wire(gate).connect()
    client.send(post(10_000_000))
    sent = 0
    while client.transport.reading:
        client.send(b"x" * 10_000)
        sent += 10_000
        await turns(1)
    assert sent == 70_000
    gate.open.set()
    await turns()
    assert head_of(client.received)[1][b"connection"] == b"close"


async def test_reading_goes_on_when_the_body_is_asked_for() -> None:
    gate = Gate(Recorder(body_limit=200_000))
    client = Wire(gate).connect()
    client.send(post(150_000))
    client.send(b"x" * 70_000)
    assert not client.transport.reading
    gate.open.set()
    await turns()
    client.send(b"x" * 80_000)
    await turns()
    assert head_of(client.received)[0] == 200


async def test_all_bodies_together_are_limited() -> None:
    wire = Wire(gate := Gate(Recorder(body_limit=10_000)), Limits(body_buffered_bytes=5_000))
    gate.open.set()
    first, second = wire.connect(), wire.connect()
    first.send(post(4_000) + b"x" * 3_000)
    second.send(post(4_000) + b"x" * 1_500)
    await turns()
    assert wire.server.held_bytes == 4_500
    second.send(b"x" * 1_000)
    await turns()
    status, headers, body = head_of(second.received)
    assert (status, headers[b"connection"]) == (503, b"close")
    assert b"overloaded" in body
    assert BodiesOverloaded().recovery is not None
    first.send(b"x" * 1_000)
    await turns()
    assert head_of(first.received)[0] == 200
    assert wire.server.held_bytes == 0


async def test_bodies_are_not_counted_after_their_call() -> None:
    wire = Wire(Recorder(body_limit=10))
    for data in (post(5) + b"hello", post(50) + b"x" * 50, post(50) + b"x" * 10, b"POST /a HTTP/1.1\r\n\r\n"):
        client = wire.connect()
        client.send(data)
        await turns()
        client.leave()
    await turns()
    assert wire.server.held_bytes == 0
    assert wire.server.in_flight == 0


async def waiting_for_a_body(limits: Limits | None = None) -> tuple[Wire, "asyncio.Future[Exception]"]:
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def app(request: Request, _responder: Responder) -> None:
        try:
            await request.body(1 << 30)
        except Exception as error:
            failed.set_result(error)
            raise

    return Wire(app, limits), failed


async def test_a_body_that_trickles_is_408_after_10_s() -> None:
    wire, failed = await waiting_for_a_body()
    client = wire.connect()
    client.send(post(100_000))
    await turns()
    for _ in range(9):
        wire.wheel.pass_time(1)
        client.send(b"x" * 100)
    await turns()
    assert not failed.done()
    wire.wheel.pass_time(6)
    await turns()
    assert isinstance(failed.result(), BodyTimeout)
    assert head_of(client.received)[0] == 408
    assert client.closed


async def test_a_body_that_stalls_is_408_after_30_s() -> None:
    wire, failed = await waiting_for_a_body()
    client = wire.connect()
    client.send(post(100_000) + b"x" * 50_000)
    await turns()
    wire.wheel.pass_time(29)
    await turns()
    assert not failed.done()
    wire.wheel.pass_time(7)
    await turns()
    assert isinstance(failed.result(), BodyTimeout)


async def test_a_body_has_300_s_in_all() -> None:
    wire, failed = await waiting_for_a_body()
    client = wire.connect()
    client.send(post(1 << 30))
    await turns()
    for _ in range(29):
        wire.wheel.pass_time(10)
        client.send(b"x" * 5_000)
    await turns()
    assert not failed.done()
    wire.wheel.pass_time(16)
    await turns()
    assert isinstance(failed.result(), BodyTimeout)


async def test_a_body_at_the_slowest_allowed_rate_arrives() -> None:
    wire = Wire(Recorder())
    client = wire.connect()
    client.send(post(20_000))
    await turns()
    for _ in range(20):
        client.send(b"x" * 1_000)
        wire.wheel.pass_time(9)
    await turns()
    assert head_of(client.received)[0] == 200


async def test_a_body_in_very_small_chunks_arrives_whole() -> None:
    app = Recorder()
    client = Wire(app).connect()
    client.send(b"POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n")
    await turns()
    for n in range(5_000):
        client.send(b"2\r\n%02d\r\n" % (n % 100))
    client.send(b"0\r\n\r\n")
    await turns()
    assert app.bodies == [b"".join(b"%02d" % (n % 100) for n in range(5_000))]
    assert type(app.bodies[0]) is bytes


# --- 100-continue ---


EXPECT = b"POST /a HTTP/1.1\r\nHost: gw\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"


async def test_100_continue_is_sent_when_the_body_is_asked_for_and_not_before() -> None:
    gate = Gate(Recorder())
    client = Wire(gate).connect()
    client.send(EXPECT)
    await turns()
    assert len(client.received) == 0
    gate.open.set()
    await turns()
    assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    await turns()
    assert client.received.count(b"HTTP/1.1 ") == 2


async def test_100_continue_is_not_sent_for_a_body_that_is_refused() -> None:
    client = Wire(Recorder(body_limit=4)).connect()
    client.send(EXPECT)
    await turns()
    assert head_of(client.received)[0] == 413
    gate = Gate()
    gate.open.set()
    client = Wire(gate).connect()
    client.send(EXPECT)
    await turns()
    assert head_of(client.received)[0] == 200
    assert head_of(client.received)[1][b"connection"] == b"close"


async def test_100_continue_is_not_sent_when_the_body_is_already_here() -> None:
    client = Wire(Recorder()).connect()
    client.send(EXPECT + b"hello")
    await turns()
    assert b"100 Continue" not in client.received


async def test_100_continue_is_not_sent_to_http_1_0() -> None:
    client = Wire(Recorder()).connect()
    client.send(EXPECT.replace(b"HTTP/1.1", b"HTTP/1.0"))
    await turns()
    assert len(client.received) == 0


# --- streamed bodies ---


async def test_a_body_can_be_taken_in_pieces_and_little_of_it_is_held() -> None:
    taken: list[bytes] = []
    gate = Gate()

    async def app(request: Request, responder: Responder) -> None:
        async for piece in request.chunks(1 << 30):
            taken.append(piece)
            if len(taken) == 1:
                await gate.hold(request, responder)
        responder.send(200, [], b"")

    wire = Wire(app)
    client = wire.connect()
    client.send(post(500_000))
    client.send(b"x" * 1_000)
    await turns()
    sent = 1_000
    while client.transport.reading:
        client.send(b"x" * 20_000)
        sent += 20_000
    assert sent <= 100_000
    assert wire.server.held_bytes <= 100_000
    gate.open.set()
    while sent < 500_000:
        await turns()
        client.send(b"x" * min(50_000, 500_000 - sent))
        sent += min(50_000, 500_000 - sent)
    await turns()
    assert sum(map(len, taken)) == 500_000
    assert head_of(client.received)[0] == 200
    assert not client.closed
    assert wire.server.held_bytes == 0


async def test_a_body_taken_in_pieces_is_limited_too() -> None:
    async def app(request: Request, responder: Responder) -> None:
        async for _ in request.chunks(100):
            pass
        responder.send(200, [], b"")

    wire = Wire(app)
    assert head_of(await wire.exchange(post(101)))[0] == 413
    assert head_of(await wire.exchange(post(100) + b"x" * 100))[0] == 200
    chunks = b"POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1e\r\n" + b"x" * 30 + b"\r\n"
    client = wire.connect()
    client.send(chunks)
    for _ in range(3):
        await turns()
        client.send(b"1e\r\n" + b"x" * 30 + b"\r\n")
    await turns()
    assert head_of(client.received)[0] == 413


# --- connections ---


async def test_a_peer_has_a_limited_number_of_connections() -> None:
    wire = Wire(Recorder(), Limits(connections_per_peer=2))
    first, second, third = wire.connect(), wire.connect(), wire.connect()
    assert head_of(third.received)[0] == 503
    assert b"overloaded" in third.received
    assert third.closed
    assert head_of(await wire.connect("192.0.2.9").ask(GET))[0] == 200
    first.leave()
    third.leave()
    await turns()
    assert head_of(await wire.connect().ask(GET))[0] == 200
    assert head_of(await second.ask(GET))[0] == 200


async def test_the_process_has_a_limited_number_of_connections() -> None:
    wire = Wire(Recorder(), Limits(connections_max=2))
    clients = [wire.connect(f"192.0.2.{n}") for n in range(3)]
    assert [client.transport.aborted for client in clients] == [False, False, True]
    assert not clients[2].received


async def test_what_is_pipelined_is_parked_up_to_a_limit_then_reading_stops() -> None:
    gate = Gate()
    client = Wire(gate).connect()
    client.send(GET)
    parked = 0
    while client.transport.reading:
        client.send(GET * 100)
        parked += len(GET) * 100
    assert parked <= 64 * 1024 + len(GET) * 100
    await turns()
    assert len(gate.entered) == 1
    gate.open.set()
    await turns(40_000)
    assert len(gate.entered) == parked // len(GET) + 1
    assert client.transport.reading


async def test_replies_nobody_reads_stop_the_next_request() -> None:
    big = b"x" * 100_000

    async def app(_request: Request, responder: Responder) -> None:
        responder.send(200, [], big)

    wire = Wire(app)
    client = wire.connect()
    client.transport.stalled = True
    client.send(GET * 50)
    await turns(50)
    assert client.transport.buffered < 400_000
    assert not client.transport.reading
    client.transport.stalled = False
    client.transport.client_reads()
    await turns(200)
    assert client.received.count(b"HTTP/1.1 200") == 50
