"""A provider made of bytes: it counts every byte it receives and answers with exactly what a test gives it."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

Headers = list[tuple[bytes, bytes]]

JSON: Final = b"application/json"
SSE: Final = b"text/event-stream"
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Received:
    """One request, byte for byte."""

    head: bytes
    body: bytes

    @property
    def line(self) -> bytes:
        return self.head.partition(b"\r\n")[0]

    @property
    def headers(self) -> Headers:
        """In order and in their spelling."""
        lines = self.head.rstrip(b"\r\n").split(b"\r\n")[1:]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class Wire:
    """The way back of one reply. What is written after the client left is dropped."""

    def __init__(self, transport: asyncio.Transport, gone: asyncio.Event) -> None:
        self._transport = transport
        self.gone = gone
        """The client closed the connection."""

    def send(self, data: bytes) -> None:
        if not self.gone.is_set():
            self._transport.write(data)

    def begin(self, kind: bytes = SSE, *, status: int = 200, headers: Sequence[bytes] = ()) -> None:
        """The head of a chunked reply."""
        self.send(head(status, kind, b"Transfer-Encoding: chunked", *headers))

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self.send(b"0\r\n\r\n")

    def close(self) -> None:
        """End the connection after what was written."""
        self._transport.close()

    def reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()


Play = Callable[[Received, Wire], Awaitable[None]]


def head(status: int, kind: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 %d X" % status, b"Content-Type: " + kind, *lines, b"", b""])


def whole(body: bytes, *, status: int = 200, kind: bytes = JSON, headers: Sequence[bytes] = ()) -> Play:
    """Answers every request with this body."""

    async def play(request: Received, wire: Wire) -> None:
        wire.send(head(status, kind, b"Content-Length: %d" % len(body), *headers) + body)

    return play


def stream(pieces: Sequence[bytes], *, kind: bytes = SSE, headers: Sequence[bytes] = ()) -> Play:
    """Answers every request with these chunks."""

    async def play(request: Received, wire: Wire) -> None:
        wire.begin(kind, headers=headers)
        for piece in pieces:
            wire.chunk(piece)
            await asyncio.sleep(0)
        wire.end()

    return play


class Upstream:
    """Listens on a port of its own for as long as an `async with` block lasts; `play` may be changed at any time."""

    def __init__(self, play: Play) -> None:
        self.play = play
        self.bytes_received = 0
        self.connections = 0
        self.requests: list[Received] = []
        self.open: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self.open):
            await connection.stop()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Connection(asyncio.Protocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # stream servers give full transports
        self._upstream.open.add(self)
        self._upstream.connections += 1

    def data_received(self, data: bytes) -> None:
        self._upstream.bytes_received += len(data)
        self._buffer += data
        if self._task is None or self._task.done():
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self._upstream.open.discard(self)

    def _next(self) -> None:
        found = _cut(self._buffer)
        if found is None:
            return
        request, self._buffer = found
        self._upstream.requests.append(request)
        assert self._transport is not None
        wire = Wire(self._transport, self._gone)
        self._task = asyncio.get_running_loop().create_task(self._answer(request, wire))

    async def _answer(self, request: Received, wire: Wire) -> None:
        await self._upstream.play(request, wire)
        if self._buffer:
            self._next()

    async def stop(self) -> None:
        assert self._transport is not None
        self._transport.abort()
        await self._gone.wait()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])


def _cut(buffer: bytes) -> tuple[Received, bytes] | None:
    """The first request of a buffer and the rest; None while it is incomplete. Lengths only: we never send chunks."""
    end = buffer.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    request = Received(buffer[:end], b"")
    length = int(request.header(b"content-length") or 0)
    if len(buffer) < end + length:
        return None
    return Received(buffer[:end], buffer[end : end + length]), buffer[end + length :]
