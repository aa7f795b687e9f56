"""One client's connection: requests in (keep-alive, pipelined, chunked, Expect), raw control of what goes out.

Nothing is written ahead of the kernel, so "sent" means that the kernel accepted it.
"""

import asyncio
import socket
import struct
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast

import httptools

BODY_MAX: Final = 256 * 1024 * 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class ClientGone(Exception):
    """The client closed the connection while its reply was due."""


@dataclass(slots=True)
class Request:
    method: str = ""
    target: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    """Lower-case names; the last of several wins."""
    body: bytes = b""
    keep_alive: bool = False
    chunks_allowed: bool = True
    """False for HTTP/1.0, whose streams end with the connection."""


Answer = Callable[[Request, "Sender"], Awaitable[None]]


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, answer: Answer, *, on_bytes: Callable[[int], None], open_: set["Connection"]) -> None:
        self._answer = answer
        self._on_bytes = on_bytes
        self._open = open_
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._waiting: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it
        transport.set_write_buffer_limits(high=0)
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # why it ended makes no difference
        self._open.discard(self)
        self.lost.set()
        self._room.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def data_received(self, data: bytes) -> None:
        self._on_bytes(len(data))
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._close_with(b"HTTP/1.1 400 Bad Request")

    # The parser's callbacks, in their order.

    def on_message_begin(self) -> None:
        self._request = Request()
        self._body, self._body_bytes = [], 0

    def on_url(self, url: bytes) -> None:
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._request.headers.get("expect", "").lower() == "100-continue" and self._task is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes <= BODY_MAX:
            self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        request.body = b"".join(self._body)
        request.keep_alive = self._parser.should_keep_alive()
        request.chunks_allowed = self._parser.get_http_version() == "1.1"
        if self._body_bytes > BODY_MAX:
            self._close_with(b"HTTP/1.1 413 Content Too Large")
            return
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer_all())

    def _close_with(self, status_line: bytes) -> None:
        self.transport.write(status_line + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()

    async def _answer_all(self) -> None:
        try:
            while self._waiting and not self.transport.is_closing():
                request = self._waiting.popleft()
                await self._answer(request, Sender(self, request))
                if not request.keep_alive:
                    self.transport.close()
        except ClientGone:
            self.transport.abort()
        except BaseException:
            # A defect here must look like one to the client, not like a reply that never comes.
            self.transport.abort()
            raise
        finally:
            self._task = None

    async def ended(self) -> None:
        """Abort, and wait until the reply in progress was accounted for."""
        self.transport.abort()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def write(self, raw: bytes) -> None:
        if self.lost.is_set() or self.transport.is_closing():
            raise ClientGone
        self.transport.write(raw)
        await self._room.wait()
        if self.lost.is_set():
            raise ClientGone


class Sender:
    """The way out of one reply. Every method that waits raises ClientGone when the client leaves."""

    def __init__(self, connection: Connection, request: Request) -> None:
        self._connection = connection
        self._request = request
        self._chunked = False
        self._gzip: zlib._Compress | None = None

    async def pause(self, seconds: float | None) -> None:
        """Wait, for ever when None; 0 gives the others a turn."""
        if seconds == 0:
            await asyncio.sleep(0)
            if self._connection.lost.is_set():
                raise ClientGone
            return
        try:
            async with asyncio.timeout(seconds):
                await self._connection.lost.wait()
        except TimeoutError:
            return
        raise ClientGone

    async def whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        await self._connection.write(self._head(status, {**headers, "content-length": str(len(body))}) + body)

    async def begin(self, status: int, headers: dict[str, str], *, length: int | None = None) -> None:
        """Send a head alone: of `length` bytes, or of a stream."""
        if length is not None:
            framing = {"content-length": str(length)}
        elif self._request.chunks_allowed:
            self._chunked = True
            framing = {"transfer-encoding": "chunked"}
        else:
            self._request.keep_alive = False
            framing = {}
        await self._connection.write(self._head(status, headers | framing))

    def compress(self) -> None:
        self._gzip = zlib.compressobj(wbits=31)

    async def send(self, raw: bytes) -> None:
        if self._gzip is not None:
            raw = self._gzip.compress(raw) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        await self._connection.write(self._framed(raw))

    async def end(self) -> None:
        rest = b"" if self._gzip is None else self._framed(self._gzip.flush())
        await self._connection.write(rest + (b"0\r\n\r\n" if self._chunked else b""))

    def reset(self) -> None:
        """Vanish: the client reads "connection reset by peer"."""
        sock = self._connection.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._connection.transport.abort()

    def cut(self) -> None:
        """Close in the middle: what was sent arrives, and then the connection ends."""
        self._connection.transport.close()

    def _framed(self, raw: bytes) -> bytes:
        # An empty chunk would end the body.
        return b"%x\r\n%b\r\n" % (len(raw), raw) if self._chunked and raw else raw

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = ""
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        if not self._request.keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
