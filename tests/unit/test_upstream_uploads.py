"""Request bodies that are sent as they arrive."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from data_plane.http_message import ClientGone
from data_plane.upstream import Timeouts, UpstreamFailure, UpstreamPool
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


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def test_a_body_of_known_length_is_sent_with_its_length_and_the_connection_is_kept(pool: UpstreamPool) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK)

    async with upstream(script) as up:
        for _ in range(2):
            reply = await pool.send(up.base, b"POST", b"/", headers=[], body=pieces(b"ab", b"", b"cd"), length=4)
            assert await reply.read(10) == b"ok"
        assert up.requests[1].endswith(b"\r\nContent-Length: 4\r\n\r\nabcd")
        assert len(up.peers) == 1


async def test_a_body_of_unknown_length_is_chunked(pool: UpstreamPool) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.reader.readuntil(b"0\r\n\r\n"))
        await peer.send(OK)

    async with upstream(script) as up:
        reply = await pool.send(up.base, b"POST", b"/", headers=[], body=pieces(b"ab", b"", b"cde"))
        assert await reply.read(10) == b"ok"
        assert seen[0].endswith(b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n")


@pytest.mark.parametrize("parts", [(b"abc",), (b"abc", b"de")])
async def test_a_body_that_is_not_as_long_as_announced_is_not_completed(
    pool: UpstreamPool, parts: tuple[bytes, ...]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with upstream(script) as up:
        with pytest.raises(ValueError, match="announced length"):
            await pool.send(up.base, b"POST", b"/", headers=[], body=pieces(*parts), length=4)
        await until(up.peers[0].reader.at_eof)
        assert not up.requests


async def test_a_client_that_leaves_during_its_upload_ends_the_call(pool: UpstreamPool) -> None:
    async def leaving() -> AsyncIterator[bytes]:
        yield b"abc"
        await asyncio.sleep(0.005)
        raise ClientGone

    async def script(peer: Peer) -> None:
        await peer.gone()

    async with upstream(script) as up:
        with pytest.raises(ClientGone):
            await pool.send(up.base, b"POST", b"/", headers=[], body=leaving())
        await until(up.peers[0].reader.at_eof)


async def test_little_of_an_upload_is_held_when_the_provider_is_slow(pool: UpstreamPool) -> None:
    taken = 0
    go = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 50_000_000:
            taken += 100_000
            yield b"x" * 100_000

    async def script(peer: Peer) -> None:
        transport = peer.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        await go.wait()
        transport.resume_reading()
        await peer.request()
        await peer.send(OK)

    async with upstream(script) as up:
        call = asyncio.create_task(pool.send(up.base, b"POST", b"/", headers=[], body=endless(), length=50_000_000))
        before = -1
        while before != taken:
            before = taken
            await asyncio.sleep(0.02)
        assert taken < 20_000_000  # what the kernel takes
        go.set()
        assert await (await call).read(10) == b"ok"
        assert taken == 50_000_000


async def test_a_reply_may_come_before_the_upload_is_complete(pool: UpstreamPool) -> None:
    stopped = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 2\r\n\r\n", b"no")
        await peer.gone()

    async with upstream(script) as up:
        reply = await pool.send(up.base, b"POST", b"/", headers=[], body=endless())
        assert (reply.status, await reply.read(10)) == (413, b"no")
        await asyncio.wait_for(stopped.wait(), 1)
        await until(up.peers[0].reader.at_eof)  # it cannot be used again


async def test_an_upload_that_breaks_off_during_the_reply_is_a_failure(pool: UpstreamPool) -> None:
    go = asyncio.Event()

    async def breaking() -> AsyncIterator[bytes]:
        yield b"x"
        await go.wait()
        raise ClientGone

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"first")
        await peer.gone()

    async with upstream(script) as up:
        reply = await pool.send(up.base, b"POST", b"/", headers=[], body=breaking())
        collected = Collected()
        piping = asyncio.create_task(reply.pipe(collected))
        await until(lambda: collected.body == b"first")
        go.set()
        await piping
        assert collected.failure is not None
        assert collected.failure.phase == "write"


async def test_the_first_byte_is_awaited_from_the_end_of_the_upload(pool: UpstreamPool, wheel: HandWheel) -> None:
    more = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"ab"
        await more.wait()
        yield b"cd"

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    async with upstream(script) as up:
        call = asyncio.create_task(
            pool.send(up.base, b"POST", b"/", headers=[], body=slow(), length=4, timeouts=Timeouts(first_byte_s=20))
        )
        await until(lambda: len(up.peers) == 1)
        wheel.pass_time(200)
        await asyncio.sleep(0.002)
        assert not call.done()
        more.set()
        await until(lambda: len(up.requests) == 1)
        wheel.pass_time(19)
        await asyncio.sleep(0)
        assert not call.done()
        wheel.pass_time(3)
        with pytest.raises(UpstreamFailure) as caught:
            await call
        assert (caught.value.phase, caught.value.timeout) == ("first_byte", True)
