"""Replies of every framing on one connection, cut anywhere, and damaged ones."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from data_plane.timers import TimerWheel
from data_plane.upstream import Timeouts, UpstreamFailure
from data_plane.upstream.connection import UpstreamConnection
from tests.fakes.scripted_upstream import Collected
from tests.fakes.wire import FakeTransport, HandWheel, turns


class Home:
    """A pool of one connection."""

    def __init__(self) -> None:
        self.hand = HandWheel()
        self.wheel: TimerWheel = self.hand
        self.freed_count = 0
        self.lost_count = 0

    def freed(self, _connection: UpstreamConnection) -> None:
        self.freed_count += 1

    def lost(self, _connection: UpstreamConnection) -> None:
        self.lost_count += 1


@st.composite
def reply_bytes(draw: Any) -> tuple[bytes, bytes]:
    body = draw(st.binary(max_size=80))
    head = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nL: x\r\n\r\n"]))
    head += b"HTTP/1.1 200 OK\r\nX-Pad: " + draw(st.sampled_from([b"", b"p" * 200])) + b"\r\n"
    if draw(st.booleans()):
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body, body
    wire, at = b"", 0
    while at < len(body):
        size = draw(st.integers(1, 30))
        piece = body[at : at + size]
        wire += b"%x\r\n%b\r\n" % (len(piece), piece)
        at += size
    trailer = draw(st.sampled_from([b"", b"T: 1\r\n"]))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + wire + b"0\r\n" + trailer + b"\r\n", body


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in [*cuts, len(data)]:
        if at < len(data):
            pieces.append(data[at : at + size])
            at += size
    return pieces


@given(st.lists(st.tuples(reply_bytes(), st.lists(st.integers(1, 90), max_size=20)), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_replies_are_read_as_sent(replies: list[tuple[tuple[bytes, bytes], list[int]]]) -> None:
    async def story() -> None:
        home = Home()
        connection = UpstreamConnection(home, asyncio.get_running_loop())
        transport = FakeTransport(connection)
        for (data, body), cuts in replies:
            asked = connection.request(b"GET / HTTP/1.1\r\n\r\n", b"", Timeouts())
            collected = Collected()
            piping: asyncio.Task[None] | None = None
            for piece in cut(data, cuts):
                connection.data_received(piece)
                if asked.done() and piping is None:
                    piping = asyncio.create_task(asked.result().pipe(collected))
                    await turns(2)
            assert piping is not None
            await piping
            assert (collected.body, collected.completions, collected.failure) == (body, 1, None)
        assert home.freed_count == len(replies)
        assert not transport.closing

    asyncio.run(story())


@given(reply_bytes(), st.integers(0, 400), st.binary(min_size=1, max_size=3), st.lists(st.integers(1, 90), max_size=9))
@settings(max_examples=150, deadline=None)
def test_a_damaged_reply_ends_once_and_never_hangs(
    reply: tuple[bytes, bytes], place: int, damage: bytes, cuts: list[int]
) -> None:
    async def story() -> None:
        home = Home()
        connection = UpstreamConnection(home, asyncio.get_running_loop())
        transport = FakeTransport(connection)
        data = reply[0]
        place_in = place % len(data)
        data = data[:place_in] + damage + data[place_in + len(damage) :]
        asked = connection.request(b"GET / HTTP/1.1\r\n\r\n", b"", Timeouts())
        for piece in cut(data, cuts):
            if not transport.closing:
                connection.data_received(piece)
        home.hand.pass_time(1_000)  # both clocks: first byte and silence
        collected = Collected()
        try:
            await asyncio.wait_for((await asyncio.wait_for(asked, 1)).pipe(collected), 1)
        except UpstreamFailure as failure:
            collected.failed(failure)
        await turns()
        assert (collected.completions == 1) != (collected.failure is not None)
        if home.freed_count == 0:
            assert home.lost_count == 1

    asyncio.run(story())
