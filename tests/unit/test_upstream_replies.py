"""Replies as a provider may send them, and when the end of one is believed."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest

from data_plane.http_message import Headers
from data_plane.upstream import Base, ReplyTooLarge, Timeouts, UpstreamFailure, UpstreamPool, UpstreamResponse
from tests.fakes.scripted_upstream import Collected, Peer, until, upstream
from tests.fakes.wire import HandWheel, no_loop_errors

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def wheel() -> HandWheel:
    return HandWheel()


@pytest.fixture
async def pool(wheel: HandWheel) -> AsyncIterator[UpstreamPool]:
    pool = UpstreamPool(wheel)
    with no_loop_errors():
        yield pool
        pool.close()
        await asyncio.sleep(0.005)


def send(
    pool: UpstreamPool, base: Base, method: bytes = b"POST", body: bytes = b"{}", timeouts: Timeouts | None = None
) -> "asyncio.Task[UpstreamResponse]":
    headers: Headers = [(b"X-A", b"1")]
    return asyncio.create_task(
        pool.send(base, method, b"/v1/x?q", headers=headers, body=body, timeouts=timeouts or Timeouts())
    )


def replying(*pieces: bytes, then: str = "wait") -> Callable[[Peer], "asyncio.Future[None]"]:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*pieces)
            if then == "close":
                return
            if then == "reset":
                peer.reset()
                return

    return script  # type: ignore[return-value]


async def test_a_request_is_written_with_its_host_and_length() -> None:
    pool = UpstreamPool(HandWheel())
    async with upstream(replying(OK)) as up:
        base = Base("http", up.base.host, up.base.port, "/prefix")
        reply = await send(pool, base, body=b"hello")
        assert await reply.read(10) == b"ok"
        await (await send(pool, base, b"GET", b"")).read(10)
        host = b"Host: 127.0.0.1:%d\r\n" % base.port
        assert up.requests == [
            b"POST /prefix/v1/x?q HTTP/1.1\r\n" + host + b"X-A: 1\r\nContent-Length: 5\r\n\r\nhello",
            b"GET /prefix/v1/x?q HTTP/1.1\r\n" + host + b"X-A: 1\r\n\r\n",
        ]
        assert len(up.peers) == 1
    pool.close()


async def test_status_reason_and_headers_arrive_as_sent(pool: UpstreamPool) -> None:
    head = b"HTTP/1.1 429 Slow Down\r\nRetry-After:  7 \r\nX-a: 1\r\nx-A: 2\r\nContent-Length: 0\r\n\r\n"
    async with upstream(replying(head)) as up:
        reply = await send(pool, up.base)
        assert (reply.status, reply.reason) == (429, b"Slow Down")
        assert [name for name, _ in reply.headers] == [b"Retry-After", b"X-a", b"x-A", b"Content-Length"]
        assert reply.lower[b"retry-after"] == b"7"
        assert reply.lower[b"x-a"] == b"1"
        assert reply.complete
        assert reply.whole == b""


async def test_a_large_request_body_arrives_whole(pool: UpstreamPool) -> None:
    body = bytes(range(256)) * 4_000
    async with upstream(replying(OK)) as up:
        reply = await send(pool, up.base, body=body)
        assert await reply.read(10) == b"ok"
        assert up.requests[0].endswith(b"\r\n\r\n" + body)


BODIES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\nhello \r\n5;x=y\r\nworld\r\n0\r\nT: 1\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    "blank reason": b"HTTP/1.1 200 \r\nContent-Length: 11\r\n\r\nhello world",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 11\r\n\r\nhello world",
}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_reply_split_at_every_byte_is_the_same_reply(kind: str) -> None:
    data = BODIES[kind]
    pool = UpstreamPool(HandWheel())

    async def script(peer: Peer) -> None:
        for cut in range(1, len(data)):
            await peer.request()
            peer.writer.write(data[:cut])
            await asyncio.sleep(0.0005)
            peer.writer.write(data[cut:])

    async with upstream(script) as up:
        for cut in range(1, len(data)):
            reply = await send(pool, up.base)
            collected = Collected()
            await reply.pipe(collected)
            assert (reply.status, collected.body, collected.completions) == (200, b"hello world", 1), cut
            assert b"link" not in reply.lower
            assert b"t" not in reply.lower
        assert len(up.peers) == 1  # kept alive through all of it
    pool.close()


async def test_one_read_is_one_piece_however_many_chunks_it_has(pool: UpstreamPool) -> None:
    chunks = b"".join(b"3\r\nabc\r\n" for _ in range(50))
    async with upstream(
        replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    ) as up:
        collected = Collected()
        await (await send(pool, up.base)).pipe(collected)
        assert collected.pieces == [b"abc" * 50]


async def test_a_body_streams_from_the_read_callback(pool: UpstreamPool) -> None:
    more = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await more.wait()
        await peer.send(b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n")

    async with upstream(script) as up:
        reply = await send(pool, up.base)
        assert not reply.complete
        assert reply.whole is None
        collected = Collected()
        piping = asyncio.create_task(reply.pipe(collected))
        await asyncio.sleep(0.002)
        more.set()
        await piping
        assert collected.pieces == [b"one", b"two"]
        assert (collected.completions, collected.failure) == (1, None)


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content", b"304 Not Modified"])
async def test_replies_without_a_body_end_with_their_head(pool: UpstreamPool, method: bytes, status: bytes) -> None:
    if method == b"GET" and status.startswith(b"200"):
        return
    length = b"" if status.startswith(b"204") else b"Content-Length: 5\r\n"
    async with upstream(replying(b"HTTP/1.1 " + status + b"\r\n" + length + b"\r\n")) as up:
        for _ in range(3):
            reply = await send(pool, up.base, method, b"")
            assert reply.complete
            assert await reply.read(0) == b""
        assert len(up.peers) == 1


async def test_a_body_without_length_or_chunks_ends_with_the_connection(pool: UpstreamPool) -> None:
    async with upstream(replying(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", then="close")) as up:
        collected = Collected()
        await (await send(pool, up.base)).pipe(collected)
        assert (collected.body, collected.completions, collected.failure) == (b"hello", 1, None)


async def test_a_body_without_length_that_is_reset_is_a_failure(pool: UpstreamPool) -> None:
    async with upstream(replying(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", then="wait")) as up:
        reply = await send(pool, up.base)
        collected = Collected()
        piping = asyncio.create_task(reply.pipe(collected))
        await until(lambda: collected.body == b"hello")
        sock = up.peers[0].writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        up.peers[0].reset()
        await piping
        assert collected.completions == 0
        assert collected.failure is not None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
    ],
)
async def test_an_end_of_file_before_the_end_is_a_failure(pool: UpstreamPool, data: bytes) -> None:
    async with upstream(replying(data, then="close")) as up:
        reply = await send(pool, up.base)
        collected = Collected()
        await reply.pipe(collected)
        assert collected.body == b"hello"
        assert collected.completions == 0
        assert collected.failure is not None
        assert collected.failure.phase == "body"
        assert collected.failure.bytes_written
        assert not collected.failure.timeout


async def test_reading_a_reply_that_is_cut_off_raises(pool: UpstreamPool) -> None:
    async with upstream(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", then="close")) as up:
        reply = await send(pool, up.base)
        with pytest.raises(UpstreamFailure):
            await reply.read(100)


async def test_reading_more_than_the_limit_raises_and_closes(pool: UpstreamPool) -> None:
    async with upstream(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)) as up:
        reply = await send(pool, up.base)
        with pytest.raises(ReplyTooLarge):
            await reply.read(49)
        await until(up.peers[0].reader.at_eof)


BAD_HEADS = {
    "nothing": b"",
    "no http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "old http": b"HTTP/0.9 200 OK\r\n\r\n",
    "new http": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "icy": b"ICE/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "length and chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
    "signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "gzip coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "line feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "interim without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 40,
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
    "too long": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000,
    "bad status": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_HEADS.values(), ids=[name.replace(" ", "-") for name in BAD_HEADS])
async def test_a_reply_that_cannot_be_read_one_way_only_is_a_failure(pool: UpstreamPool, data: bytes) -> None:
    then = "wait" if data and data.endswith(b"y") else "close"
    async with upstream(replying(data, then=then)) as up:
        with pytest.raises(UpstreamFailure) as caught:
            await send(pool, up.base)
        assert caught.value.phase == "first_byte"
        assert caught.value.bytes_written
        assert len(up.requests) == 1  # never repeated


@pytest.mark.parametrize(
    "body",
    [b"x\r\nabc\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n", b"-1\r\n", b"FFFFFFFFFFFFFFFFFF\r\n"],
)
async def test_a_badly_chunked_body_is_a_failure(pool: UpstreamPool, body: bytes) -> None:
    async with upstream(replying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", body)) as up:
        reply = await send(pool, up.base)
        collected = Collected()
        await reply.pipe(collected)
        assert collected.failure is not None
        assert collected.failure.phase == "body"
        assert collected.completions == 0


async def test_chunk_extensions_without_end_are_a_failure(pool: UpstreamPool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;")
        while True:
            await peer.send(b"a" * 10_000)

    async with upstream(script) as up:
        collected = Collected()
        await (await send(pool, up.base)).pipe(collected)
        assert collected.failure is not None


SURPLUS = {
    "bytes after a length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n",
    "an empty line after a length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n",
    "bytes after chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP",
    "an empty line after chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n",
    "garbage after chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\x00\x01",
}


@pytest.mark.parametrize("data", SURPLUS.values(), ids=[name.replace(" ", "-") for name in SURPLUS])
async def test_bytes_after_a_complete_reply_discard_the_connection(pool: UpstreamPool, data: bytes) -> None:
    async with upstream(replying(data)) as up:
        for _ in range(2):
            assert await (await send(pool, up.base)).read(10) == b"ok"
        assert len(up.peers) == 2


async def test_bytes_on_a_pooled_connection_discard_it(pool: UpstreamPool) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(0.005)
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await peer.gone()

    async with upstream(script) as up:
        await (await send(pool, up.base)).read(10)
        await until(up.peers[0].reader.at_eof)
        assert (await send(pool, up.base)).status == 200
        assert len(up.peers) == 2


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
    ],
)
async def test_a_connection_is_reused_when_the_provider_lets_us(pool: UpstreamPool, head: bytes, kept: bool) -> None:
    async with upstream(replying(head + b"Content-Length: 2\r\n\r\nok")) as up:
        for _ in range(2):
            assert await (await send(pool, up.base)).read(10) == b"ok"
        assert len(up.peers) == (1 if kept else 2)


async def test_redirects_are_passed_on_and_not_followed(pool: UpstreamPool) -> None:
    head = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with upstream(replying(head)) as up:
        assert (await send(pool, up.base)).status == 307
        assert len(up.requests) == 1


async def test_an_abort_closes_the_connection_and_the_sink_hears_nothing_more(pool: UpstreamPool) -> None:
    closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello")
        await peer.gone()
        closed.set()

    async with upstream(script) as up:
        reply = await send(pool, up.base)
        collected = Collected()
        piping = asyncio.create_task(reply.pipe(collected))
        await asyncio.sleep(0.005)
        reply.abort()
        await asyncio.wait_for(piping, 1)
        await asyncio.wait_for(closed.wait(), 1)
        assert collected.body == b"hello"
        assert (collected.completions, collected.failure) == (0, None)
        reply.abort()


async def test_cancelling_the_caller_closes_the_connection_in_every_phase(pool: UpstreamPool) -> None:
    gone: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello")
        await peer.gone()
        gone.append(peer.number)

    async with upstream(script) as up:
        waiting = send(pool, up.base)
        await until(lambda: len(up.requests) == 1)
        waiting.cancel()
        await until(lambda: gone == [0])
        reply = await send(pool, up.base)
        piping = asyncio.create_task(reply.pipe(Collected()))
        await asyncio.sleep(0.005)
        piping.cancel()
        await until(lambda: gone == [0, 1])


async def test_a_sink_that_fails_ends_the_call_and_its_error_is_raised(pool: UpstreamPool) -> None:
    class Broken(Collected):
        def data(self, data: bytes) -> None:
            raise KeyError(data)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        await asyncio.sleep(0.005)
        await peer.send(b"hello")
        await peer.gone()

    async with upstream(script) as up:
        reply = await send(pool, up.base)
        with pytest.raises(KeyError):
            await reply.pipe(Broken())
        await until(up.peers[0].reader.at_eof)


async def test_a_body_nobody_reads_yet_is_held_only_a_little(pool: UpstreamPool) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n")
        for _ in range(2_000):
            await peer.send(b"x" * 10_000)
            sent += 10_000

    async with upstream(script) as up:
        reply = await send(pool, up.base)
        await asyncio.sleep(0.05)
        before = sent
        await asyncio.sleep(0.02)
        assert sent == before < 20_000_000
        assert reply.held_bytes < 400_000
        size = 0

        class Counting(Collected):
            def data(self, data: bytes) -> None:
                nonlocal size
                size += len(data)

        await reply.pipe(Counting())
        assert size == 20_000_000


async def test_a_paused_reply_is_not_read(pool: UpstreamPool) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(2_000):
            await peer.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            sent += 10_000
        await peer.send(b"0\r\n\r\n")

    async with upstream(script) as up:
        reply = await send(pool, up.base)

        class Pausing(Collected):
            def data(self, data: bytes) -> None:
                super().data(data)
                reply.pause()

        collected = Pausing()
        piping = asyncio.create_task(reply.pipe(collected))
        await asyncio.sleep(0.05)
        assert len(collected.pieces) == 1
        before = sent
        await asyncio.sleep(0.02)
        assert sent == before
        while not piping.done():
            reply.resume()
            await asyncio.sleep(0.0005)
        assert len(collected.body) == 20_000_000
        assert collected.completions == 1
