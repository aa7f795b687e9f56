"""Clients that leave or stop reading, back-pressure, and the server's own departure."""

import asyncio
import gc

import pytest

from data_plane.http_message import ClientGone, Request, Responder
from data_plane.server_connection import ServerConnection
from tests.fakes.wire import Gate, Recorder, Wire, head_of, no_loop_errors, turns

GET = b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: 10\r\n\r\n"


@pytest.mark.parametrize("how", ["leave", "half_close"])
async def test_a_client_that_leaves_before_its_body_is_complete_ends_the_call(how: str) -> None:
    seen: list[BaseException] = []

    async def app(request: Request, _responder: Responder) -> None:
        try:
            await request.body(100)
        except ClientGone as gone:
            seen.append(gone)
            raise

    wire = Wire(app)
    client = wire.connect()
    with no_loop_errors():
        client.send(POST + b"abc")
        await turns()
        getattr(client, how)()
        await turns()
    assert len(seen) == 1
    assert not client.received
    assert not wire.errors
    assert not wire.server.connections
    assert wire.server.in_flight == 0


@pytest.mark.parametrize("how", ["leave", "half_close"])
async def test_a_client_that_leaves_mid_stream_is_reported_once_and_at_once(how: str) -> None:
    gone: list[str] = []
    gate = Gate()

    async def app(request: Request, responder: Responder) -> None:
        responder.start(200, [], length=None)
        responder.write(b"first")
        request.on_disconnect(lambda: gone.append("gone"))
        await gate.hold(request, responder)
        responder.write(b"late")
        responder.end()

    wire = Wire(app)
    client = wire.connect()
    with no_loop_errors():
        client.send(GET)
        await turns()
        getattr(client, how)()
        await turns()
        assert gone == ["gone"]
        request, responder = gate.entered[0]
        assert request.gone
        assert responder.gone
        gate.open.set()
        await turns()
    assert responder.finished
    assert b"late" not in client.received
    assert gone == ["gone"]


async def test_a_departure_before_the_callback_was_set_is_reported_too() -> None:
    gone: list[str] = []
    gate = Gate()

    async def app(request: Request, responder: Responder) -> None:
        await gate.hold(request, responder)
        request.on_disconnect(lambda: gone.append("gone"))
        await turns(2)

    client = Wire(app).connect()
    client.send(GET)
    await turns()
    client.leave()
    await turns()
    gate.open.set()
    await turns()
    assert gone == ["gone"]


async def test_a_departure_after_the_reply_concerns_nobody() -> None:
    gone: list[str] = []
    settle = asyncio.Event()

    async def app(request: Request, responder: Responder) -> None:
        request.on_disconnect(lambda: gone.append("gone"))
        responder.send(200, [], b"")
        await settle.wait()

    wire = Wire(app)
    client = wire.connect()
    await client.ask(GET)
    client.leave()
    await turns()
    settle.set()
    await turns()
    assert gone == []
    assert not wire.errors


async def test_a_client_may_half_close_after_its_reply() -> None:
    client = Wire(Recorder()).connect()
    await client.ask(GET)
    client.half_close()
    assert client.transport.closing
    assert not client.transport.aborted


class Source:
    """A provider that counts how often it was paused."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pause(self) -> None:
        self.events.append("pause")

    def resume(self) -> None:
        self.events.append("resume")


async def streaming(wire_gate: Gate, source: Source) -> Wire:
    async def app(request: Request, responder: Responder) -> None:
        responder.start(200, [], length=None)
        responder.on_writable(source.pause, source.resume)
        await wire_gate.hold(request, responder)

    return Wire(app)


async def test_a_slow_reader_pauses_whoever_writes_and_resumes_it_when_it_caught_up() -> None:
    gate, source = Gate(), Source()
    wire = await streaming(gate, source)
    client = wire.connect()
    client.transport.stalled = True
    client.send(GET)
    await turns()
    responder = gate.entered[0][1]
    for _ in range(3):
        responder.write(b"x" * 80_000)
    assert source.events == []
    responder.write(b"x" * 80_000)
    assert source.events == ["pause"]
    client.transport.client_reads(200_000)
    assert source.events == ["pause"]
    client.transport.client_reads(80_000)
    assert source.events == ["pause", "resume"]
    responder.end()
    gate.open.set()
    await turns()


async def test_one_who_begins_to_write_to_a_full_buffer_is_paused_at_once() -> None:
    source = Source()

    async def app(request: Request, responder: Responder) -> None:
        responder.start(200, [], length=None)
        if request.path == b"/second":
            responder.on_writable(source.pause, source.resume)
        responder.write(b"x" * 300_000)
        responder.end()

    client = Wire(app).connect()
    client.transport.stalled = True
    client.send(GET)
    await turns()
    assert not client.transport.reading  # the next request waits until the client reads
    client.transport.client_reads(290_000)
    await turns()
    client.send(GET.replace(b"/a", b"/second"))
    await turns()
    assert source.events == ["pause"]


async def test_a_client_that_reads_nothing_for_60_s_is_treated_as_gone() -> None:
    gate, source = Gate(), Source()
    wire = await streaming(gate, source)
    client = wire.connect()
    client.transport.stalled = True
    client.send(GET)
    await turns()
    request, responder = gate.entered[0]
    gone: list[str] = []
    request.on_disconnect(lambda: gone.append("gone"))
    responder.write(b"x" * 300_000)
    wire.wheel.pass_time(59)
    assert not gone
    wire.wheel.pass_time(2)
    assert gone == ["gone"]
    assert client.transport.aborted
    gate.open.set()
    await turns()


async def test_a_client_that_reads_slowly_is_not_gone() -> None:
    gate, source = Gate(), Source()
    wire = await streaming(gate, source)
    client = wire.connect()
    client.transport.stalled = True
    client.send(GET)
    await turns()
    gate.entered[0][1].write(b"x" * 1_000_000)
    for _ in range(10):
        wire.wheel.pass_time(50)
        client.transport.client_reads(10_000)
    assert not client.transport.aborted
    gate.entered[0][1].abort()
    gate.open.set()
    await turns()


async def test_a_client_that_never_reads_its_last_reply_does_not_keep_its_connection() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.send(200, [], b"x" * 100_000)

    for request in (GET, GET.replace(b"Host: gw", b"Host: gw\r\nConnection: close")):
        wire = Wire(app)
        client = wire.connect()
        client.transport.stalled = True
        client.send(request)
        await turns()
        wire.wheel.pass_time(140)
        await turns()
        assert client.transport.aborted
        assert not wire.server.connections


async def test_a_client_that_reads_its_last_reply_slowly_gets_it_all() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.send(200, [], b"x" * 100_000)

    client = (wire := Wire(app)).connect()
    client.transport.stalled = True
    client.send(GET)
    await turns()
    for _ in range(9):
        wire.wheel.pass_time(50)
        client.transport.client_reads(10_000)
    assert not client.closed


async def test_a_call_that_still_reads_its_body_after_its_reply_is_told() -> None:
    seen: list[Exception] = []

    async def app(request: Request, responder: Responder) -> None:
        responder.send(200, [], b"")
        try:
            await request.body(100)
        except ClientGone as gone:
            seen.append(gone)

    wire = Wire(app)
    client = wire.connect()
    client.send(POST + b"abc")
    await turns()
    assert len(seen) == 1
    assert wire.server.in_flight == 0


async def test_a_broken_departure_callback_leaves_nothing_behind() -> None:
    gate = Gate()

    def broken() -> None:
        raise KeyError("bug")

    async def app(request: Request, responder: Responder) -> None:
        request.on_disconnect(broken)
        await gate.hold(request, responder)

    wire = Wire(app)
    client = wire.connect()
    client.send(GET)
    await turns()
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    client.leave()
    await turns()
    assert len(reported) == 1
    assert not wire.server.connections
    gate.open.set()
    await turns()
    assert wire.server.in_flight == 0


async def test_an_aborted_reply_cannot_be_taken_for_a_complete_one() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.start(200, [], length=None)
        responder.write(b"half")
        responder.abort()
        responder.write(b"more")
        responder.end()

    client = Wire(app).connect()
    await client.ask(GET)
    assert client.received.endswith(b"4\r\nhalf\r\n")
    assert client.transport.closing
    client = Wire(app).connect()
    await client.ask(b"GET /a HTTP/1.0\r\n\r\n")
    assert client.transport.aborted  # where the end of the connection would mean success


async def test_an_abort_before_the_head_sends_nothing() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.abort()

    client = Wire(app).connect()
    await client.ask(GET)
    assert not client.received
    assert client.transport.closing


# --- shutdown ---


async def test_a_draining_server_closes_idle_connections_and_lets_calls_finish() -> None:
    gate = Gate()
    wire = Wire(gate)
    idle, busy, half = wire.connect(), wire.connect(), wire.connect()
    busy.send(GET)
    half.send(GET[:10])
    await turns()
    wire.server.stop_accepting()
    assert idle.transport.closing
    assert half.transport.closing
    assert not busy.closed
    assert wire.connect().transport.aborted
    drained = asyncio.create_task(wire.server.drain(5))
    await turns()
    assert not drained.done()
    gate.open.set()
    await asyncio.wait_for(drained, 1)
    assert head_of(busy.received)[1][b"connection"] == b"close"
    assert not wire.server.connections


async def test_after_its_time_a_draining_server_cuts_and_waits_for_the_accounts() -> None:
    ends: list[str] = []

    async def app(request: Request, responder: Responder) -> None:
        gone = asyncio.Event()
        request.on_disconnect(gone.set)
        responder.start(200, [], length=None)
        responder.write(b"data")
        await gone.wait()
        await asyncio.sleep(0.01)
        ends.append("settled")

    wire = Wire(app)
    client = wire.connect()
    client.send(GET)
    await turns()
    await asyncio.wait_for(wire.server.drain(0.02), 1)
    assert client.transport.aborted
    assert ends == ["settled"]
    assert wire.server.in_flight == 0


async def test_closed_connections_leave_nothing_behind() -> None:
    gc.collect()
    gc.disable()  # reference counts alone must do: cycles would pile up between collections
    try:

        async def app(request: Request, responder: Responder) -> None:
            responder.send(200, [], await request.body(100))

        wire = Wire(app)
        for n in range(20):
            client = wire.connect(f"192.0.2.{n}")
            await client.ask(GET)
            await client.ask(POST + b"0123456789")
            client.send(POST[:n])
            client.leave()
        del client
        await turns()
        assert not wire.server.connections
        assert not wire.server._per_peer
        kept = [thing for thing in gc.get_objects() if type(thing) in {ServerConnection, Request, Responder}]
        assert not kept
    finally:
        gc.enable()
