"""Requests as bytes on a connection: what the application sees, and what the client gets back."""

import asyncio

import pytest

from data_plane.http_message import Headers, Request, Responder
from shared.errors import RequestRefusal
from tests.fakes.wire import Gate, Recorder, Wire, head_of, turns

GET = b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"


async def test_a_request_arrives_with_its_raw_bytes_and_a_lower_cased_view() -> None:
    app = Recorder()
    wire = Wire(app)
    await wire.exchange(
        b"POST /v1/x?a=1&b=%20 HTTP/1.1\r\nHost: gw:8787\r\nX-Mixed:  Va lue \t\r\nX-Mixed: second\r\n"
        b"Empty:\r\nContent-Length: 3\r\n\r\nabc"
    )
    request = app.requests[0]
    assert (request.method, request.target) == (b"POST", b"/v1/x?a=1&b=%20")
    assert (request.path, request.query) == (b"/v1/x", b"a=1&b=%20")
    assert [name for name, _ in request.headers] == [b"Host", b"X-Mixed", b"X-Mixed", b"Empty", b"Content-Length"]
    assert request.lower[b"x-mixed"] == b"Va lue"
    assert request.lower[b"empty"] == b""
    assert request.repeated == {b"x-mixed"}
    assert request.peer == "192.0.2.1"
    assert request.started_ns > 0
    assert app.bodies == [b"abc"]


async def test_a_request_split_at_every_byte_is_the_same_request() -> None:
    data = b"POST /v1/x?y HTTP/1.1\r\nHost: gw\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello"
    for cut in range(1, len(data)):
        app = Recorder()
        client = Wire(app).connect()
        client.send(data[:cut])
        client.send(data[cut:])
        await turns()
        assert head_of(client.received)[0] == 200, cut
        assert app.bodies == [b"hello"]
        assert app.requests[0].headers == [(b"Host", b"gw"), (b"X-A", b"1"), (b"Content-Length", b"5")]


async def test_a_request_that_comes_byte_by_byte_is_the_same_request() -> None:
    app = Recorder()
    client = Wire(app).connect()
    for byte in b"POST /x HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: 1\r\n\r\n":
        client.send(bytes([byte]))
    await turns()
    assert app.bodies == [b"abc"]
    assert b"t" not in app.requests[0].lower


async def test_a_reply_is_one_write_with_its_length() -> None:
    client = Wire(Recorder()).connect()
    client.send(GET)
    await turns()
    assert client.transport.writes == [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nGET /a",
    ]
    assert not client.closed


async def test_a_connection_is_kept_for_the_next_request() -> None:
    app = Recorder()
    client = Wire(app).connect()
    for _ in range(3):
        assert head_of(await client.ask(GET))[2] == b"GET /a"
    assert len(app.requests) == 3


async def test_connection_close_is_honoured_and_announced() -> None:
    client = Wire(Recorder()).connect()
    reply = await client.ask(b"GET /a HTTP/1.1\r\nHost: gw\r\nConnection: Close\r\n\r\n")
    assert head_of(reply)[1][b"connection"] == b"close"
    assert client.transport.closing


async def test_http_1_0_closes_unless_it_asks_to_be_kept() -> None:
    wire = Wire(Recorder())
    client = wire.connect()
    reply = await client.ask(b"GET /a HTTP/1.0\r\n\r\n")
    assert head_of(reply)[1] == {b"content-type": b"text/plain", b"content-length": b"6", b"connection": b"close"}
    assert client.transport.closing
    client = wire.connect()
    reply = await client.ask(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert head_of(reply)[1][b"connection"] == b"keep-alive"
    assert not client.closed


async def stream(_request: Request, responder: Responder) -> None:
    responder.start(200, [(b"X", b"1")], length=None)
    responder.write(b"one")
    responder.write(b"")
    responder.write(b"two")
    responder.end()


async def test_a_stream_is_chunked_one_write_for_each_piece() -> None:
    client = Wire(stream).connect()
    client.send(GET)
    await turns()
    assert client.transport.writes == [
        b"HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
        b"3\r\ntwo\r\n",
        b"0\r\n\r\n",
    ]
    assert not client.closed


async def test_the_head_of_a_stream_does_not_wait_for_its_body() -> None:
    gate = Gate()

    async def slow(request: Request, responder: Responder) -> None:
        responder.start(200, [], length=None)
        await gate.hold(request, responder)
        responder.end()

    client = Wire(slow).connect()
    assert await client.ask(GET) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    gate.entered[0][1].write(b"x")
    assert client.received.endswith(b"1\r\nx\r\n")
    gate.entered[0][1].end()
    gate.open.set()
    await turns()


async def test_a_stream_to_an_http_1_0_client_ends_with_the_connection() -> None:
    client = Wire(stream).connect()
    reply = await client.ask(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert reply == b"HTTP/1.1 200 OK\r\nX: 1\r\nConnection: close\r\n\r\nonetwo"
    assert client.transport.closing
    assert not client.transport.aborted


async def test_a_stream_of_known_length_is_not_chunked() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.start(200, [], length=4)
        responder.write(b"ab")
        responder.write(b"cd")
        responder.end()

    client = Wire(app).connect()
    assert await client.ask(GET) == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"
    assert not client.closed


async def test_a_body_shorter_than_announced_cuts_the_connection() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.start(200, [], length=4)
        responder.write(b"ab")
        responder.end()

    client = Wire(app).connect()
    await client.ask(GET)
    assert client.transport.closing


async def test_large_pieces_are_not_copied_together_and_arrive_whole() -> None:
    piece = b"x" * 100_000

    async def app(request: Request, responder: Responder) -> None:
        if request.path == b"/send":
            responder.send(200, [], piece)
        else:
            responder.start(200, [], length=None)
            responder.write(piece)
            responder.end()

    wire = Wire(app)
    assert head_of(await wire.exchange(GET.replace(b"/a", b"/send")))[2] == piece
    assert head_of(await wire.exchange(GET))[2] == b"186a0\r\n" + piece + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_no_framing(status: int) -> None:
    async def app(request: Request, responder: Responder) -> None:
        if request.path == b"/send":
            responder.send(status, [], b"ignored")
        else:
            responder.start(status, [], length=None)
            responder.write(b"ignored")
            responder.end()

    wire = Wire(app)
    for path in (b"/send", b"/start"):
        head = (await wire.exchange(GET.replace(b"/a", path))).split(b" ", 2)
        assert head[1] == str(status).encode()
        assert head[2].endswith(b"\r\n\r\n")
        assert b"Content-Length" not in head[2]
        assert b"chunked" not in head[2]


async def test_head_gets_the_head_only_and_the_connection_stays_usable() -> None:
    async def app(request: Request, responder: Responder) -> None:
        if request.path == b"/send":
            responder.send(200, [], b"body")
        else:
            responder.start(200, [], length=10 if request.path == b"/length" else None)
            responder.write(b"0123456789")
            responder.end()

    client = Wire(app).connect()
    head = GET.replace(b"GET", b"HEAD")
    assert await client.ask(head.replace(b"/a", b"/send")) == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
    assert await client.ask(head.replace(b"/a", b"/length")) == b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    assert await client.ask(head) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert not client.closed


async def test_pipelined_requests_are_answered_one_at_a_time_and_in_order() -> None:
    gate = Gate()
    client = Wire(gate).connect()
    client.send(b"".join(GET.replace(b"/a", b"/%d" % n) for n in range(3)))
    await turns()
    assert len(gate.entered) == 1
    gate.open.set()
    await turns(20)
    assert [request.target for request, _ in gate.entered] == [b"/0", b"/1", b"/2"]
    assert [part[-2:] for part in client.transport.writes] == [b"/0", b"/1", b"/2"]


async def test_a_pipelined_request_may_end_in_the_middle() -> None:
    app = Recorder()
    client = Wire(app).connect()
    client.send(GET + GET[:10])
    await turns()
    client.send(GET[10:])
    await turns()
    assert len(app.requests) == 2


async def test_a_request_after_a_chunked_body_is_found_to_the_byte() -> None:
    app = Recorder()
    client = Wire(app).connect()
    chunked = b"POST /c HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    length = b"POST /l HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\nwxyz"
    client.send(chunked + length + GET + length + chunked)
    await turns(40)
    assert app.bodies == [b"ab", b"wxyz", b"", b"wxyz", b"ab"]
    assert [request.target for request in app.requests] == [b"/c", b"/l", b"/a", b"/l", b"/c"]


async def test_an_empty_line_before_a_request_is_tolerated() -> None:
    app = Recorder()
    client = Wire(app).connect()
    await client.ask(b"\r\n" + GET)
    await client.ask(b"\r\n")
    await client.ask(GET)
    assert len(app.requests) == 2


async def test_an_application_that_fails_is_answered_with_500_and_reported() -> None:
    async def app(_request: Request, _responder: Responder) -> None:
        raise KeyError("bug")

    wire = Wire(app)
    client = wire.connect()
    assert head_of(await client.ask(GET))[0] == 500
    assert isinstance(wire.errors[0], KeyError)
    assert head_of(await client.ask(GET))[0] == 500  # the connection survives


async def test_an_application_that_fails_after_it_began_cuts_the_connection() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.start(200, [], length=None)
        responder.write(b"x")
        raise KeyError("bug")

    client = Wire(app).connect()
    await client.ask(GET)
    assert client.transport.closing
    assert not client.received.endswith(b"0\r\n\r\n")


async def test_an_application_that_forgets_to_answer_is_a_500() -> None:
    async def app(_request: Request, _responder: Responder) -> None:
        pass

    assert head_of(await Wire(app).exchange(GET))[0] == 500


async def test_a_refusal_raised_by_the_application_is_rendered() -> None:
    async def app(_request: Request, _responder: Responder) -> None:
        raise RequestRefusal(403, "forbidden", "No.", close=True)

    client = Wire(app).connect()
    status, headers, body = head_of(await client.ask(GET))
    assert (status, headers[b"connection"]) == (403, b"close")
    assert b"forbidden" in body


async def test_the_next_request_does_not_wait_for_what_the_application_does_after_its_reply() -> None:
    settled = asyncio.Event()

    async def app(_request: Request, responder: Responder) -> None:
        responder.send(200, [], b"")
        await settled.wait()

    wire = Wire(app)
    client = wire.connect()
    await client.ask(GET)
    assert head_of(await client.ask(GET))[0] == 200
    assert wire.server.in_flight == 2
    settled.set()
    await turns()
    assert wire.server.in_flight == 0


@pytest.mark.parametrize(
    "headers",
    [[(b"X", b"a\r\nSet-Cookie: b")], [(b"X\r\nY", b"a")], [(b"X", b"a\nb")], [(b"A", b"1"), (b"B", b"2\r\n\r\nbody")]],
)
async def test_a_header_cannot_break_out_of_its_line(headers: Headers) -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.send(200, headers, b"")

    wire = Wire(app)
    assert head_of(await wire.exchange(GET))[0] == 500
    assert isinstance(wire.errors[0], ValueError)


async def test_a_request_is_answered_once() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.send(200, [], b"1")
        responder.send(200, [], b"2")

    wire = Wire(app)
    client = wire.connect()
    client.send(GET)
    await turns()
    assert client.received.count(b"HTTP/1.1") == 1
    assert isinstance(wire.errors[0], AssertionError)


async def test_unknown_status_codes_pass() -> None:
    async def app(_request: Request, responder: Responder) -> None:
        responder.send(529, [], b"")

    assert (await Wire(app).exchange(GET)).startswith(b"HTTP/1.1 529 \r\n")


async def test_h2c_offered_in_passing_is_ignored() -> None:
    app = Recorder()
    client = Wire(app).connect()
    head = (
        b"POST /a HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    )
    await client.ask(head + b"Content-Length: 2\r\n\r\nhi")
    await client.ask(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
    await client.ask(head + b"\r\n" + GET)
    await turns()
    assert app.bodies == [b"hi", b"hi", b"", b""]


async def test_any_other_upgrade_is_not_supported() -> None:
    app = Recorder()
    client = Wire(app).connect()
    reply = await client.ask(
        b"GET /v1/realtime HTTP/1.1\r\nHost: gw\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert head_of(reply)[0] == 501
    assert client.closed
    assert not app.requests


def post(body: bytes, *, path: bytes = b"/v1/x", length_name: bytes = b"Content-Length") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: gw\r\n%b: %d\r\nX-A: 1\r\n\r\n%b" % (path, length_name, len(body), body)


async def test_a_repeated_head_is_the_same_request_with_its_own_length() -> None:
    app = Recorder()
    client = Wire(app).connect()
    bodies = [b"a", b"bb", b"", b"c" * 1_000, b"dd", b"e"]
    for body in bodies:
        assert head_of(await client.ask(post(body)))[0] == 200
    assert app.bodies == bodies
    for request, body in zip(app.requests, bodies, strict=True):
        length = b"%d" % len(body)
        assert request.headers == [(b"Host", b"gw"), (b"Content-Length", length), (b"X-A", b"1")]
        assert request.lower == {b"host": b"gw", b"content-length": length, b"x-a": b"1"}
        assert (request.method, request.path, request.content_length) == (b"POST", b"/v1/x", len(body))
    assert len({id(request.headers) for request in app.requests}) == len(bodies)
    assert len({id(request.lower) for request in app.requests}) == len(bodies)
    assert app.requests[-1].memo is app.requests[2].memo  # what was derived from the head can be kept there
    assert app.requests[0].memo is not app.requests[1].memo
    await client.ask(GET)
    assert app.requests[-1].memo is not app.requests[2].memo


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
@pytest.mark.parametrize("size", [7, 1 << 20], ids=["in-pieces", "at-once"])
async def test_repeated_and_changed_heads_can_be_mixed(name: bytes, size: int) -> None:
    app = Recorder()
    client = Wire(app).connect()
    chunked = b"POST /c HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    sequence = [
        post(b"abc", length_name=name),
        GET,
        post(b"abcd", path=b"/other"),
        chunked,
        post(b"", length_name=name),
    ]
    data = b"".join(request * times for times in (1, 2, 3) for request in sequence)
    for at in range(0, len(data), size):
        client.send(data[at : at + size])
        await turns(3)
    await turns(200)
    expected = [(b"/v1/x", b"abc"), (b"/a", b""), (b"/other", b"abcd"), (b"/c", b"hi"), (b"/v1/x", b"")]
    seen = [(request.path, body) for request, body in zip(app.requests, app.bodies, strict=True)]
    assert seen == [pair for times in (1, 2, 3) for pair in expected for _ in range(times)]


@pytest.mark.parametrize(
    "damaged",
    [
        post(b"abc").replace(b"Length: 3", b"Length: +3"),
        post(b"abc").replace(b"Length: 3", b"Length: 3, 3"),
        post(b"abc").replace(b"Length: 3", b"Length: 0x3"),
        post(b"abc").replace(b"Length: 3", b"Length: "),
        post(b"abc").replace(b"Length: 3", b"Length: 3\n"),
        post(b"abc").replace(b"Length: 3", b"Length: " + b"0" * 15 + b"3"),
        post(b"abc").replace(b"Length: 3\r\n", b"Length: 3\r\nContent-Length: 3\r\n"),
        post(b"abc").replace(b"X-A: 1\r\n", b"X-A: 1\r\nTransfer-Encoding: chunked\r\n"),
        post(b"abc").replace(b"X-A: 1\r\n", b"X-A: 1\r\n folded\r\n"),
        post(b"abc").replace(b"Host: gw\r\n", b"Host: gw\r\nHost: gw\r\n"),
    ],
)
async def test_a_head_that_is_almost_repeated_is_judged_like_any_other(damaged: bytes) -> None:
    app = Recorder()
    client = Wire(app).connect()
    for _ in range(4):
        await client.ask(post(b"abc"))
    assert head_of(await client.ask(damaged))[0] == 400
    assert client.closed
    assert len(app.requests) == 4
