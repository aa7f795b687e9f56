"""One connection to a provider: one request at a time, its reply parsed strictly and handed on as it is read.

The end of a body is believed only when the framing says so: end of file completes a body that had neither length nor
chunks, and is a failure otherwise. Anything that leaves doubt about where a reply ended closes the connection.
"""

import asyncio
from collections.abc import AsyncIterable
from math import inf
from typing import Final, Protocol

import httptools

from data_plane.http_headers import Headers
from data_plane.timers import TimerWheel
from data_plane.upstream.clock import CallClock
from data_plane.upstream.failures import Phase, Timeouts, UpstreamFailure
from data_plane.upstream.response import UpstreamResponse
from data_plane.upstream.upload import Upload

HEAD_BYTES_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 256
_INTERIM_MAX: Final = 16
_AHEAD_BYTES_MAX: Final = 64 * 1024
"""Of a body nobody reads yet."""
_NOTHING_BYTES_MAX: Final = 64 * 1024
"""Of chunk extensions and trailers in a row: there is no reason to send that much of nothing."""
_WRITE_HIGH_BYTES: Final = 256 * 1024
_COPY_BELOW_BYTES: Final = 16_384

_POOLED: Final = 0
_HEAD: Final = 1
_PLAIN: Final = 2
"""In a body that ends by its length or with the connection."""
_CHUNKED: Final = 3
_CLOSED: Final = 4

_ONE: Final = ord("1")
"""Of HTTP/1.1, where a connection is kept unless something else is said."""
_BODILESS: Final = frozenset({204, 304})


class ConnectionHome(Protocol):
    """What a connection needs of its pool."""

    wheel: TimerWheel

    def freed(self, connection: "UpstreamConnection") -> None:
        """A reply ended cleanly: the connection can carry another request."""

    def lost(self, connection: "UpstreamConnection") -> None:
        """Closed, wherever it was; said once."""


class UpstreamConnection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, home: ConnectionHome, loop: asyncio.AbstractEventLoop) -> None:
        self._home = home
        self._loop = loop
        self._clock = CallClock(home.wheel, self._timeout)
        self._state = _POOLED
        self._headers: Headers = []
        self._parts: list[bytes] = []
        self.on_body = self._parts.append
        """For the parser: without a frame of ours between it and the list."""
        self._parser = httptools.HttpResponseParser(self)
        self._response: UpstreamResponse | None = None
        self._waiter: asyncio.Future[UpstreamResponse] | None = None
        self._upload: Upload | None = None
        self._paused = self._ahead_paused = False
        self.idle_hint_s = inf
        """How long the provider says it keeps an idle connection, and a bit less."""

    @property
    def usable(self) -> bool:
        return self._state == _POOLED and not self.transport.is_closing()

    # --- the request ---

    def request(
        self, head: bytes, body: bytes, timeouts: Timeouts, *, head_only: bool = False
    ) -> "asyncio.Future[UpstreamResponse]":
        """Write a request; the future is the head of its reply. From here on the provider may have seen it."""
        assert self._state == _POOLED, "one request at a time"
        self._state = _HEAD
        self._head = b""
        self._headers = []
        self._head_only = head_only
        self._message_ended = self._surplus = False
        self._left = self._nothing_bytes = self._interim = 0
        self._waiter = waiter = self._loop.create_future()
        large = len(body) >= _COPY_BELOW_BYTES
        if large:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head + body if body else head)
        self._clock.start(timeouts, large=large)
        return waiter

    def upload(self, body: AsyncIterable[bytes], length: int | None) -> None:
        """Send the body of the request just written as it comes; its errors reach whoever waits for the reply."""
        self._clock.uploading()
        self._upload = Upload(self.transport, body, length, self._upload_ended)

    def _upload_ended(self, error: Exception | None) -> None:
        self._upload = None
        if error is None:
            if self._state == _HEAD:
                self._clock.uploaded()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
            self.abort()
        else:
            self._fail(f"the body of the request broke off: {error!r}", "write")

    def keep(self, idle_s: float) -> None:
        """Wait for the next request, at most this long."""
        self._clock.keep(idle_s)

    def abort(self) -> None:
        """Close at once; whatever was in flight was given up by its owner."""
        self._response = self._waiter = None
        self._close()

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # stream connections give full transports
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == _HEAD:
            self._read_head(data)
        elif state == _CHUNKED:
            self._read_chunked(data)
        elif state == _PLAIN:
            self._read_plain(data)
        elif state == _POOLED:
            self._close()  # nobody asked for anything

    def eof_received(self) -> bool | None:
        if self._state == _PLAIN and self._left < 0:
            self._end()
        return None

    def pause_writing(self) -> None:
        if self._upload is not None:
            self._upload.pause()

    def resume_writing(self) -> None:
        if self._upload is not None:
            self._upload.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state != _CLOSED:
            detail = f": {exc}" if exc is not None else ""
            self._fail(f"the provider closed the connection{detail}")
        self._clock.discard()
        del self._parser
        self._home.lost(self)

    # --- parser ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_message_begin(self) -> None:
        self._surplus = self._message_ended

    def on_message_complete(self) -> None:
        self._message_ended = True

    # --- heads ---

    def _read_head(self, data: bytes) -> None:
        """Heads are cut out here: interim replies, and what follows a head, are then known to the byte."""
        if self._head:
            data = self._head + data
        while self._state == _HEAD:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._head = data
                if len(data) > HEAD_BYTES_MAX:
                    self._fail("the head of the reply is too large")
                elif not data.startswith(b"HTTP/1."[: len(data)]):
                    self._fail("the reply is not HTTP/1.1")
                return
            head, data = data[:end], data[end:]
            try:
                self._parser.feed_data(head)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                self._fail("the head of the reply is not valid HTTP/1.1")
                return
            self._head_complete(head, data)

    def _head_complete(self, head: bytes, rest: bytes) -> None:
        status, headers = self._parser.get_status_code(), self._headers
        self._headers = []
        if not head.startswith(b"HTTP/1.") or len(headers) > HEADERS_MAX or len(head) > HEAD_BYTES_MAX:
            self._fail("the head of the reply cannot be used")
            return
        if status < 200:  # an interim reply, a message of its own; 101 was refused by the parser
            self._head = b""
            self._message_ended = False
            self._interim += 1
            if self._interim > _INTERIM_MAX:
                self._fail("the provider sends interim replies without end")
            return
        waiter = self._waiter
        if waiter is None or waiter.done():  # whoever asked is gone
            self.abort()
            return
        response = UpstreamResponse(self, status, head, headers)
        coding = response.lower.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            self._fail("the reply has a transfer coding that is not understood")
            return
        self._waiter = None
        self._response = response
        if head[7] == _ONE and b"connection" not in response.lower:
            self._keep_alive = True
        else:
            self._keep_alive = response.keeps_alive()
        if b"keep-alive" in response.lower:
            self.idle_hint_s = response.idle_hint_s()
        if self._head_only or status in _BODILESS:
            if not self._message_ended:
                self._parser = httptools.HttpResponseParser(self)
            self._surplus = bool(rest)
            self._end()
        elif coding is not None:
            self._state = _CHUNKED
            self._clock.await_bytes()
            if rest:
                self._read_chunked(rest)
        else:
            self._start_plain(response, rest)
        waiter.set_result(response)

    def _start_plain(self, response: UpstreamResponse, rest: bytes) -> None:
        length = response.lower.get(b"content-length")
        if length is not None and int(length) == len(rest):  # the whole reply in one read
            if rest:
                self._parser.feed_data(rest)  # for its state: cheaper than a new parser
                self._parts.clear()
            self._response = None
            self._free()
            response.came_whole(rest)
            return
        self._state = _PLAIN
        if length is None:
            self._left = -1
            self._keep_alive = False
        else:
            self._left = response.content_length = int(length)
            self._parser = httptools.HttpResponseParser(self)
        self._clock.await_bytes()
        if rest:
            self._read_plain(rest)

    # --- bodies ---

    def _read_plain(self, data: bytes) -> None:
        left, response = self._left, self._response
        assert response is not None
        if left >= 0:
            if len(data) > left:
                self._surplus = True
                data = data[:left]
            self._left = left = left - len(data)
        if data:
            self._deliver(response, data)
        if left == 0 and self._state == _PLAIN:
            self._end()

    def _read_chunked(self, data: bytes) -> None:
        response, parts = self._response, self._parts
        assert response is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if not self._message_ended:
                parts.clear()
                self._fail("the body of the reply is not validly chunked")
                return
            self._surplus = True
        if parts:
            piece = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self._nothing_bytes = 0
            self._deliver(response, piece)
        else:
            self._nothing_bytes += len(data)
            if self._nothing_bytes > _NOTHING_BYTES_MAX:
                self._fail("the body of the reply has no end and no content")
        if self._headers:
            self._headers.clear()  # trailers
        if self._message_ended and self._state == _CHUNKED:
            # An empty line after the end is skipped by the parser, but is still a byte nobody asked for.
            self._surplus = self._surplus or data.endswith(b"\r\n\r\n\r\n")
            self._end()

    def _deliver(self, response: UpstreamResponse, data: bytes) -> None:
        if not self._paused:
            self._clock.heard()
        response.arrived(data)
        if response.held_bytes > _AHEAD_BYTES_MAX and not self._ahead_paused and self._state != _CLOSED:
            self._ahead_paused = True
            self.pause_body()

    def _end(self) -> None:
        """The reply ended cleanly."""
        response, self._response = self._response, None
        assert response is not None
        self._free()
        response.ended()

    def _free(self) -> None:
        """Back to the pool, unless something speaks against it."""
        if (
            self._keep_alive
            and not self._surplus
            and self._upload is None
            and not self.transport.get_write_buffer_size()
        ):
            self._state = _POOLED
            if self._paused:
                self.resume_body()
            self._home.freed(self)
        else:
            self._close()

    # --- called by the response ---

    def pause_body(self) -> None:
        """Back-pressure: the provider is not read, and not blamed for being silent."""
        if self._state in {_PLAIN, _CHUNKED} and not self._paused:
            self._paused = True
            self.transport.pause_reading()
            self._clock.pause()

    def resume_body(self) -> None:
        if self._paused:
            self._paused = self._ahead_paused = False
            self.transport.resume_reading()
            self._clock.await_bytes()

    # --- endings ---

    def _fail(self, message: str, phase: Phase | None = None) -> None:
        if phase is None:
            phase = "first_byte" if self._state == _HEAD else "body"
        self._failed(UpstreamFailure(phase, message, bytes_written=True))

    def _failed(self, failure: UpstreamFailure) -> None:
        response, waiter = self._response, self._waiter
        self._response = self._waiter = None
        self._close()
        if response is not None:
            response.failed(failure)
        elif waiter is not None and not waiter.done():
            waiter.set_exception(failure)

    def _close(self) -> None:
        if self._state != _CLOSED:
            self._state = _CLOSED
            self._clock.stop()
            if self._upload is not None:
                self._upload.cancel()
            # Not `close`: a request that nobody waits for any more must not be sent to its end.
            self.transport.abort()

    def _timeout(self) -> None:
        if self._state == _POOLED:
            self._close()
            return
        failure = self._clock.verdict(answered=self._state != _HEAD, buffered=self.transport.get_write_buffer_size())
        if failure is not None:
            self._failed(failure)
