"""Server and upstream pool together on real sockets, on both event loops."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from data_plane.http_message import Request, Responder
from data_plane.server import Server
from data_plane.timers import TimerWheel
from data_plane.upstream import Base, UpstreamFailure, UpstreamPool, UpstreamResponse
from tests.fakes.certificates import Authority
from tests.fakes.scripted_upstream import Peer, Upstream, until, upstream
from tests.fakes.wire import HandWheel, head_of, no_loop_errors, refuse

Run = Callable[[Coroutine[Any, Any, None]], None]

on_both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])

POST = b"POST /v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 4\r\n\r\nbody"
_FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"host"}


class Relay:
    """The smallest proxy: forwards a call and streams its reply back."""

    def __init__(self, pool: UpstreamPool, base: Base) -> None:
        self.pool = pool
        self.base = base
        self.buffered_max = 0
        self.failures: list[UpstreamFailure] = []
        self.cancelled = 0

    async def __call__(self, request: Request, responder: Responder) -> None:
        body = await request.body(1 << 20)
        headers = [header for header in request.headers if header[0].lower() not in _FRAMING]
        response = await self.pool.send(self.base, request.method, request.target, headers=headers, body=body)
        back = [header for header in response.headers if header[0].lower() not in _FRAMING]
        responder.start(response.status, back, length=response.content_length)
        responder.on_writable(response.pause, response.resume)
        request.on_disconnect(lambda: self._leave(response))
        await response.pipe(_Sink(self, responder))

    def _leave(self, response: UpstreamResponse) -> None:
        self.cancelled += 1
        response.abort()


class _Sink:
    def __init__(self, relay: Relay, responder: Responder) -> None:
        self._relay = relay
        self._responder = responder

    def data(self, data: bytes) -> None:
        self._responder.write(data)
        size = self._responder._channel.transport.get_write_buffer_size()
        self._relay.buffered_max = max(self._relay.buffered_max, size)

    def complete(self) -> None:
        self._responder.end()

    def failed(self, failure: UpstreamFailure) -> None:
        self._relay.failures.append(failure)
        self._responder.abort()


@asynccontextmanager
async def proxied(
    script: Callable[[Peer], Awaitable[None]], *, tls: ssl.SSLContext | None = None, wheel: TimerWheel | None = None
) -> AsyncIterator[tuple[Server, Relay, Upstream]]:
    async with upstream(script) as up:
        with no_loop_errors():
            wheel = wheel or HandWheel()
            pool = UpstreamPool(wheel)
            relay = Relay(pool, up.base)
            server = Server(relay, refuse, wheel=wheel)
            await server.start("127.0.0.1", 0, ssl=tls)
            yield server, relay, up
            await server.drain(0.5)
            pool.close()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def client(
    server: Server, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    name = "gateway.example" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes], bytes]:
    status, headers, _ = head_of(await reader.readuntil(b"\r\n\r\n"))
    if b"content-length" in headers:
        return status, headers, await reader.readexactly(int(headers[b"content-length"]))
    body = b""
    while size := int((await reader.readline()).strip(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return status, headers, body


async def answering(peer: Peer) -> None:
    while True:
        data = await peer.request()
        if b" /v1/chunked " in data:
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b"0\r\n\r\n")
        else:
            await peer.send(b"HTTP/1.1 201 Created\r\nX-Id: 7\r\nContent-Length: 2\r\n\r\nok")


@on_both_loops
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_calls_go_through_and_both_connections_are_kept(run: Run, secure: bool, tmp_path: Any) -> None:
    async def story() -> None:
        authority = Authority(tmp_path) if secure else None
        tls = authority.server("gateway.example") if authority else None
        async with proxied(answering, tls=tls) as (server, _, up):
            async with client(server, authority.client() if authority else None) as (reader, writer):
                for _ in range(5):
                    writer.write(POST)
                    status, headers, body = await read_reply(reader)
                    assert (status, headers[b"x-id"], body) == (201, b"7", b"ok")
                    writer.write(POST.replace(b"/v1/x", b"/v1/chunked"))
                    assert await read_reply(reader) == (200, {b"transfer-encoding": b"chunked"}, b"hello")
            assert len(up.peers) == 1
            assert up.requests[0] == (
                b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 4\r\n\r\nbody" % up.base.port
            )

    run(story())


@on_both_loops
def test_many_clients_at_once(run: Run) -> None:
    async def story() -> None:
        async with proxied(answering) as (server, _, up):

            async def one(n: int) -> None:
                async with client(server) as (reader, writer):
                    for _ in range(10):
                        writer.write(POST.replace(b"/v1/x", b"/v1/%d" % n))
                        assert (await read_reply(reader))[0] == 201

            await asyncio.gather(*(one(n) for n in range(40)))
            assert len(up.requests) == 400
            assert len(up.peers) <= 40

    run(story())


@on_both_loops
def test_a_client_that_leaves_mid_stream_stops_the_provider(run: Run) -> None:
    async def story() -> None:
        stopped = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await peer.send(b"5\r\nhello\r\n")
            await peer.gone()
            stopped.set()

        async with proxied(script) as (server, relay, _):
            async with client(server) as (reader, writer):
                writer.write(POST)
                await reader.readuntil(b"hello")
            await asyncio.wait_for(stopped.wait(), 1)
            await until(lambda: relay.cancelled == 1 and server.in_flight == 0)
            assert not relay.failures

    run(story())


@on_both_loops
def test_a_reply_cut_off_by_the_provider_is_cut_off_for_the_client(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n")

        async with proxied(script) as (server, relay, _), client(server) as (reader, writer):
            writer.write(POST)
            received = await reader.read()
            assert received.endswith(b"5\r\nhello\r\n")
            assert len(relay.failures) == 1

    run(story())


STREAMED = 200 * 1024 * 1024


@on_both_loops
def test_200_mb_pass_through_to_a_client_that_stalls_without_filling_the_memory(run: Run) -> None:
    async def story() -> None:
        sent = 0
        piece = b"%x\r\n" % 262_144 + b"x" * 262_144 + b"\r\n"

        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while sent < STREAMED:
                await peer.send(piece)
                sent += 262_144
            await peer.send(b"0\r\n\r\n")

        async with proxied(script) as (server, relay, _):
            with socket.socket() as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
                raw.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(raw, ("127.0.0.1", server.port))
                await loop.sock_sendall(raw, POST)
                await until(lambda: sent > 0)
                before = -1
                while before != sent:  # until nothing moves any more
                    before = sent
                    await asyncio.sleep(0.03)
                assert sent < 40 * 1024 * 1024  # what the kernel takes
                assert relay.buffered_max < 1024 * 1024
                received, tail = 0, b""
                while received < STREAMED or not tail.endswith(b"\r\n0\r\n\r\n"):
                    tail = await loop.sock_recv(raw, 1 << 20)
                    assert tail
                    received += len(tail)
                assert received >= STREAMED
                assert relay.buffered_max < 1024 * 1024

    run(story())


@on_both_loops
def test_a_refused_body_reaches_the_client_before_the_connection_closes(run: Run) -> None:
    async def story() -> None:
        async with proxied(answering) as (server, _, up), client(server) as (reader, writer):
            writer.write(b"POST /v1/x HTTP/1.1\r\nHost: gw\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 10_000_000)
            status, headers, _ = await read_reply(reader)
            assert (status, headers[b"connection"]) == (413, b"close")
            assert await reader.read() == b""
            assert not up.requests

    run(story())


@on_both_loops
def test_two_servers_can_share_a_port(run: Run) -> None:
    async def story() -> None:
        async def app(_request: Request, responder: Responder) -> None:
            responder.send(200, [], b"")

        first, second = (Server(app, refuse, wheel=HandWheel()) for _ in range(2))
        await first.start("127.0.0.1", 0)
        await second.start("127.0.0.1", first.port)
        first.stop_accepting()
        async with client(second) as (reader, writer):
            writer.write(POST)
            assert (await read_reply(reader))[0] == 200
        await first.drain(0.5)
        await second.drain(0.5)

    run(story())


@on_both_loops
def test_a_drained_server_finishes_its_streams(run: Run) -> None:
    async def story() -> None:
        go = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
            await go.wait()
            await peer.send(b"llo")

        async with proxied(script) as (server, _, _up), client(server) as (reader, writer):
            writer.write(POST)
            await reader.readuntil(b"he")
            draining = asyncio.create_task(server.drain(5))
            await asyncio.sleep(0.01)
            assert not draining.done()
            with pytest.raises(OSError, match=r"."):
                await asyncio.open_connection("127.0.0.1", server.port)
            go.set()
            assert await reader.readexactly(3) == b"llo"
            # The head promised more, but it was written before the server knew that it would leave.
            assert await asyncio.wait_for(reader.read(), 1) == b""
            await asyncio.wait_for(draining, 1)

    run(story())
