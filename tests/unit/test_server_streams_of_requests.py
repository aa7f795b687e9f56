"""Whatever is pipelined, and however it is cut, the application sees exactly what was sent, in order."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.wire import Recorder, Wire, turns


@st.composite
def request_bytes(draw: Any) -> tuple[bytes, bytes]:
    """A request, and its body."""
    body = draw(st.binary(max_size=60))
    path = draw(st.sampled_from([b"/", b"/a", b"/v1/x?y=1", b"/" + b"z" * 200]))
    head = b"POST " + path + b" HTTP/1.1\r\nHost: gw\r\nX-Pad: " + draw(st.sampled_from([b"", b"p" * 300])) + b"\r\n"
    kind = draw(st.sampled_from(["length", "chunked", "none"]))
    if kind == "none":
        return head + b"\r\n", b""
    if kind == "length":
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, body
    wire, at = b"", 0
    while at < len(body):
        size = draw(st.integers(1, 20))
        piece = body[at : at + size]
        wire += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += size
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + wire + b"0\r\n\r\n", body


@given(st.lists(request_bytes(), max_size=8), st.lists(st.integers(1, 400), max_size=60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_requests_are_seen_as_sent(requests: list[tuple[bytes, bytes]], cuts: list[int], at_once: bool) -> None:
    async def story() -> None:
        app = Recorder()
        wire = Wire(app)
        client = wire.connect()
        data = b"".join(request for request, _ in requests)
        at = 0
        for cut in [*cuts, len(data)]:
            if at < len(data):
                client.send(data[at : at + cut])
                at += cut
                if not at_once:
                    await turns(3)
        await turns(20 + 6 * len(requests))
        assert app.bodies == [body for _, body in requests]
        assert client.received.count(b"HTTP/1.1 200 OK") == len(requests)
        assert not client.closed
        assert wire.server.held_bytes == 0
        assert wire.server.in_flight == 0

    asyncio.run(story())


@given(st.lists(request_bytes(), min_size=1, max_size=4), st.integers(0, 400), st.binary(min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_damaged_requests_never_hang_or_break_the_server(
    requests: list[tuple[bytes, bytes]], place: int, damage: bytes
) -> None:
    async def story() -> None:
        app = Recorder()
        wire = Wire(app)
        client = wire.connect()
        data = b"".join(request for request, _ in requests)
        place_in = place % len(data)
        damaged = data[:place_in] + damage + data[place_in + len(damage) :]
        for at in range(0, len(damaged), 50):
            if client.transport.reading and not client.closed:
                client.send(damaged[at : at + 50])
        await turns(60)
        assert not wire.errors
        wire.wheel.pass_time(400)  # whatever it waits for, it stops waiting
        await turns(20)
        assert client.closed
        client.leave()
        await turns()
        assert wire.server.in_flight == 0
        assert wire.server.held_bytes == 0

    asyncio.run(story())
