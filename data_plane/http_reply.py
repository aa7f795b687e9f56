"""A reply as the application writes it. Framing (length, chunks, keep-alive) is decided here and nowhere else.

So the headers given to a Responder never contain Content-Length, Transfer-Encoding or Connection.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol

from data_plane.http_headers import Headers

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}".encode() for s in HTTPStatus}
_BODILESS: Final = frozenset({204, 304})
# The end of a head, after the line break that precedes it.
_OPEN: Final = b"\r\n"
_CLOSE: Final = b"Connection: close\r\n\r\n"
_LENGTH: Final = b"Content-Length: %d\r\n\r\n"
_LENGTH_CLOSE: Final = b"Content-Length: %d\r\nConnection: close\r\n\r\n"
_END: Final = b"0\r\n\r\n"
_COPY_BELOW_BYTES: Final = 16_384
"""Up to here one joined write is cheaper than a vectored one."""


class ReplyChannel(Protocol):
    """What a reply needs of its connection."""

    transport: asyncio.Transport

    @property
    def write_paused(self) -> bool:
        """More is buffered than should be."""

    def keeps_alive(self) -> bool:
        """Whether another request may follow this reply; asked once, when its head is written."""

    def reply_ended(self, close: bool) -> None: ...

    def cut(self, reset: bool) -> None: ...


class Responder:
    __slots__ = (
        "_body_left",
        "_channel",
        "_chunked",
        "_head",
        "_head_only",
        "_http_10",
        "_pause",
        "_resume",
        "_until_close",
        "bytes_out",
        "finished",
        "gone",
        "keep_alive",
        "started",
    )

    def __init__(self, channel: ReplyChannel, head_only: bool, http_10: bool) -> None:
        self._channel = channel
        self._head = b""
        self._head_only = head_only
        self._http_10 = http_10
        self._chunked = False
        self._until_close = False
        self._body_left = -1
        self._pause: Callable[[], None] | None = None
        self._resume: Callable[[], None] | None = None
        self.started = False
        self.finished = False
        self.gone = False
        """The client left: what is written from now on is dropped."""
        self.keep_alive = True
        """Set to False before the reply starts to close the connection after it."""
        self.bytes_out = 0

    def send(self, status: int, headers: Headers, body: bytes) -> None:
        """The whole reply in one write."""
        assert not self.started, "a request is answered once"
        channel = self._channel
        close = not (self.keep_alive and channel.keeps_alive())
        if status in _BODILESS or (self._head_only and not body):
            framing = _CLOSE if close else _OPEN
            body = b""
        else:
            framing = (_LENGTH_CLOSE if close else _LENGTH) % len(body)
        if self._http_10 and not close:
            framing = b"Connection: keep-alive\r\n" + framing
        head = _head(status, headers, framing)
        self.started = self.finished = True
        if self.gone:
            return
        if self._head_only or not body:
            channel.transport.write(head)
        elif len(body) < _COPY_BELOW_BYTES:
            channel.transport.write(head + body)
        else:
            channel.transport.writelines((head, body))
        self.bytes_out = len(body)
        channel.reply_ended(close)

    def start(self, status: int, headers: Headers, *, length: int | None) -> None:
        """The head of a reply whose body follows by `write`; without a length it is chunked."""
        assert not self.started, "a request is answered once"
        framing = b""
        if status in _BODILESS:
            self._head_only = True
        elif length is not None:
            self._body_left = length
            framing = b"Content-Length: %d\r\n" % length
        elif self._http_10:
            self._until_close = True
        else:
            self._chunked = True
            framing = b"Transfer-Encoding: chunked\r\n"
        self.keep_alive = self.keep_alive and not self._until_close and self._channel.keeps_alive()
        if not self.keep_alive:
            framing += _CLOSE
        else:
            framing += b"Connection: keep-alive\r\n\r\n" if self._http_10 else _OPEN
        head = _head(status, headers, framing)
        self.started = True
        if not self.gone:
            # With the first piece of the body, if that comes at once.
            self._head = head
            asyncio.get_running_loop().call_soon(self._flush_head)

    def write(self, data: bytes) -> None:
        """A piece of the body: one transport write."""
        if self.gone or self.finished or not data:
            return
        size = len(data)
        self.bytes_out += size
        if self._head_only:
            return
        head = self._head
        if head:
            self._head = b""
        transport = self._channel.transport
        if self._chunked:
            if not head and size < _COPY_BELOW_BYTES:
                transport.write(b"%x\r\n%b\r\n" % (size, data))
            else:
                transport.writelines((b"%b%x\r\n" % (head, size), data, b"\r\n"))
            return
        if not self._until_close:
            self._body_left -= size
            assert self._body_left >= 0, "more body than was announced"
        if head:
            transport.writelines((head, data))
        else:
            transport.write(data)

    def end(self) -> None:
        """The body is complete. A body shorter than announced cuts the connection instead."""
        if self.finished:
            return
        assert self.started, "a reply has a head"
        if self._body_left > 0 and not self._head_only:
            self.abort()
            return
        self._finish()
        if self.gone:
            return
        end = _END if self._chunked and not self._head_only else b""
        if self._head or end:
            self._channel.transport.write(self._head + end)
            self._head = b""
        self._channel.reply_ended(not self.keep_alive)

    def abort(self) -> None:
        """Cut the connection: the client must be able to tell that the reply is incomplete."""
        if self.finished:
            return
        self.started = True
        self._finish()
        if not self.gone:
            self._flush_head()
            # Where only the end of the connection ends the body, a clean end would look like a complete reply.
            self._channel.cut(reset=self._until_close)

    def on_writable(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        """Back-pressure: `pause` when the client reads too slowly, `resume` when it caught up."""
        self._pause, self._resume = pause, resume
        if self._channel.write_paused and not self.finished and not self.gone:
            pause()

    # --- called by the connection ---

    def writing_paused(self) -> None:
        if self._pause is not None:
            self._pause()

    def writing_resumed(self) -> None:
        if self._resume is not None:
            self._resume()

    def client_gone(self) -> None:
        self.gone = True
        self._pause = self._resume = None

    def _finish(self) -> None:
        self.finished = True
        self._pause = self._resume = None

    def _flush_head(self) -> None:
        head, self._head = self._head, b""
        if head and not self.gone:
            self._channel.transport.write(head)


def _head(status: int, headers: Headers, framing: bytes) -> bytes:
    """Raises ValueError if a header would break out of its line."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
    head = b"\r\n".join([line, *map(b": ".join, headers), framing])
    if head.count(b"\n") != len(headers) + framing.count(b"\n") + 1:
        raise ValueError("a header contains a line break")
    return head
