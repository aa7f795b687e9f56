"""A provider on a real socket that does what a script says, byte for byte."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from data_plane.upstream import Base, UpstreamFailure

Script = Callable[["Peer"], Awaitable[None]]


@dataclass
class Peer:
    """One accepted connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    requests: list[bytes]

    async def request(self) -> bytes:
        """The next request, head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        data = head + (await self.reader.readexactly(length) if length else b"")
        self.requests.append(data)
        return data

    async def send(self, *pieces: bytes) -> None:
        """Each piece in a packet of its own, as far as the network allows."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.001)

    async def gone(self) -> bytes:
        """Waits for the client to close; what it sent until then."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def reset(self) -> None:
        transport = self.writer.transport
        transport.abort()


@dataclass
class Upstream:
    base: Base
    peers: list[Peer] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def upstream(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Upstream]:
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, len(up.peers), up.requests)
        up.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    up = Upstream(Base("https" if tls else "http", host, port, ""))
    try:
        yield up
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


class Collected:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.completions = 0
        self.failure: UpstreamFailure | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def alive(self) -> bool:
        return self.failure is None

    def data(self, data: bytes) -> None:
        assert data
        assert not self.completions
        assert self.failure is None
        self.pieces.append(data)

    def complete(self) -> None:
        self.completions += 1

    def failed(self, failure: UpstreamFailure) -> None:
        assert self.failure is None
        self.failure = failure


async def until(condition: Callable[[], bool], seconds: float = 2.0) -> None:
    """Waits for something that happens soon."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is the world's, nobody sets an event
            await asyncio.sleep(0.001)
