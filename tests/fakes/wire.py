"""A client on a fake transport: raw bytes in, raw bytes out, and a clock that moves by hand."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from data_plane.http_message import Headers, Request, Responder
from data_plane.server import Application, Server
from data_plane.server_connection import ServerConnection
from data_plane.server_limits import Limits
from data_plane.timers import TimerWheel


class HandClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class HandWheel(TimerWheel):
    """A timer wheel turned by the test."""

    def __init__(self) -> None:
        self.hand = HandClock()
        super().__init__(self.hand)

    def pass_time(self, seconds: float) -> None:
        """In steps, so that timers armed by timers fire in their turn."""
        end = self.hand.now + seconds
        while self.hand.now < end:
            self.hand.now = min(self.hand.now + 0.25, end)
            self.advance()
        self.hand.now += 0.001


class FakeTransport(asyncio.Transport):
    """Remembers what was written. A stalled one keeps it in its buffer, as a socket nobody reads does."""

    def __init__(self, protocol: asyncio.Protocol, peer: str = "192.0.2.1") -> None:
        super().__init__({"peername": (peer, 40_000)})
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.stalled = False
        self.buffered = 0
        self.closing = self.aborted = self.eof_written = self.lost = False
        self.reading = True
        self._high = 65_536
        self._low = 16_384
        self._paused = False
        protocol.connection_made(self)

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def write(self, data: Any) -> None:
        if self.closing:
            return
        assert not self.eof_written
        self.writes.append(bytes(data))
        if self.stalled:
            self.buffered += len(data)
            if self.buffered > self._high and not self._paused:
                self._paused = True
                self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def client_reads(self, size: int | None = None) -> None:
        self.buffered = 0 if size is None else max(self.buffered - size, 0)
        if self._paused and self.buffered <= self._low:
            self._paused = False
            self.protocol.resume_writing()
        if self.closing and not self.buffered:
            self.lose()

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 65_536
        self._low = self._high // 4 if low is None else low

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.eof_written = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self.reading = False
        if not self.buffered:
            self.lose()

    def abort(self) -> None:
        self.closing = self.aborted = True
        self.lose()

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone; told in the next turn of the loop, as real ones do."""
        self.closing = True
        if not self.lost:
            self.lost = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)
            self.protocol = asyncio.Protocol()  # let go, as real ones do


async def turns(count: int = 6) -> None:
    """Let tasks and callbacks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def refuse(status: int, code: str, message: str, request: Request | None) -> tuple[Headers, bytes]:
    return [(b"Content-Type", b"application/json")], json.dumps({"code": code, "message": message}).encode()


class Wire:
    """A server, and clients on fake transports."""

    def __init__(self, application: Application, limits: Limits | None = None) -> None:
        self.wheel = HandWheel()
        self.errors: list[Exception] = []
        self.server = Server(
            application,
            refuse,
            wheel=self.wheel,
            limits=limits,
            on_error=lambda error, _request: self.errors.append(error),
        )

    def connect(self, peer: str = "192.0.2.1") -> "WireClient":
        return WireClient(FakeTransport(ServerConnection(self.server), peer))

    async def exchange(self, data: bytes) -> bytes:
        """What a fresh connection answers to these bytes."""
        client = self.connect()
        client.send(data)
        await turns()
        return client.received


class WireClient:
    def __init__(self, transport: FakeTransport) -> None:
        self.transport = transport

    def send(self, data: bytes) -> None:
        assert self.transport.reading, "the server does not read now"
        if not self.transport.lost:
            self.transport.protocol.data_received(data)

    async def ask(self, data: bytes) -> bytes:
        """What the server writes in answer to these bytes."""
        before = len(self.transport.writes)
        self.send(data)
        await turns()
        return b"".join(self.transport.writes[before:])

    def leave(self) -> None:
        self.transport.lose()

    def half_close(self) -> None:
        if not self.transport.protocol.eof_received() and not self.transport.lost:
            self.transport.close()

    @property
    def received(self) -> bytes:
        return self.transport.written

    @property
    def closed(self) -> bool:
        return self.transport.closing or self.transport.eof_written


class Recorder:
    """An application that remembers its requests and answers each with its own description."""

    def __init__(self, body_limit: int = 1_000_000) -> None:
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.body_limit = body_limit

    async def __call__(self, request: Request, responder: Responder) -> None:
        self.requests.append(request)
        self.bodies.append(await request.body(self.body_limit))
        responder.send(200, [(b"Content-Type", b"text/plain")], request.method + b" " + request.target)


class Gate:
    """An application held until the test lets it go on."""

    def __init__(self, then: Callable[[Request, Responder], Awaitable[None]] | None = None) -> None:
        self.entered: list[tuple[Request, Responder]] = []
        self.open = asyncio.Event()
        self._then = then

    async def hold(self, request: Request, responder: Responder) -> None:
        self.entered.append((request, responder))
        await self.open.wait()

    async def __call__(self, request: Request, responder: Responder) -> None:
        await self.hold(request, responder)
        if self._then is not None:
            await self._then(request, responder)
        else:
            responder.send(200, [], request.target)


@contextmanager
def no_loop_errors() -> Iterator[list[dict[str, Any]]]:
    """What reaches the loop's exception handler is collected; an empty list at the end is asserted."""
    loop = asyncio.get_running_loop()
    seen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: seen.append(context))
    try:
        yield seen
    finally:
        loop.set_exception_handler(None)
    assert not seen, [(context.get("message"), context.get("exception")) for context in seen]


def head_of(reply: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, lower-cased headers and what follows the head of the first reply."""
    head, _, rest = reply.partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    return int(line.split(b" ")[1]), headers, rest
