"""The reply of a provider: its head, and a body that goes to a sink from the read callback, one piece per read."""

import asyncio
import re
from math import inf
from typing import Final, Protocol

from data_plane.http_headers import Headers, names
from data_plane.upstream.failures import UpstreamFailure

_KEEP_ALIVE: Final = re.compile(rb"timeout=(\d{1,6})")


class Sink(Protocol):
    """Called from the read callback. Exactly one of `complete` and `failed` ends a body, unless it was aborted."""

    def data(self, data: bytes) -> None: ...

    def complete(self) -> None: ...

    def failed(self, failure: UpstreamFailure) -> None: ...


class ReplyTooLarge(Exception):
    """The body does not fit the limit given to `read`; the connection was closed."""


class BodySource(Protocol):
    """What a reply needs of its connection."""

    def pause_body(self) -> None: ...

    def resume_body(self) -> None: ...

    def abort(self) -> None: ...


class UpstreamResponse:
    __slots__ = (
        "_done",
        "_head",
        "_parts",
        "_sink",
        "_source",
        "complete",
        "content_length",
        "failure",
        "headers",
        "held_bytes",
        "lower",
        "status",
    )

    def __init__(self, source: BodySource, status: int, head: bytes, headers: Headers) -> None:
        self._source: BodySource | None = source
        self.status = status
        self._head = head
        self.headers = headers
        """As sent, framing and hop-by-hop headers included."""
        self.lower = {name.lower(): value.rstrip() for name, value in reversed(headers)}
        """Lower-cased name to value; of a repeated header the first."""
        self.content_length: int | None = None
        """Of the body that follows; None when only its end will tell."""
        self.complete = False
        """The whole body was received."""
        self.failure: UpstreamFailure | None = None
        self.held_bytes = 0
        self._parts: list[bytes] = []
        self._sink: Sink | None = None
        self._done: asyncio.Future[None] | None = None

    @property
    def reason(self) -> bytes:
        return self._head[13 : self._head.find(b"\r\n")]

    def keeps_alive(self) -> bool:
        """Whether the provider lets the connection be used again."""
        connection = self.lower.get(b"connection")
        if self._head.startswith(b"HTTP/1.1"):
            return connection is None or not names(connection, b"close")
        return names(connection, b"keep-alive")

    def idle_hint_s(self) -> float:
        """From `Keep-Alive: timeout=5`, less a second: a request sent in the last moment would be lost."""
        found = _KEEP_ALIVE.search(self.lower.get(b"keep-alive", b""))
        return max(int(found[1]) - 1.0, 0.5) if found else inf

    async def pipe(self, sink: Sink) -> None:
        """Give the body to the sink; returns when it ended, failed or was aborted. Raises only what the sink raises.

        Cancelling the caller closes the connection.
        """
        assert self._sink is None, "a body is read once"
        self._sink = sink
        if self._source is not None:
            self._source.resume_body()  # it may be paused for want of a reader; the sink may pause it again
        if self._parts:
            sink.data(self._take())
        if self.failure is not None:
            sink.failed(self.failure)
        elif self.complete:
            sink.complete()
        elif self._source is not None:
            self._done = asyncio.get_running_loop().create_future()
            try:
                await self._done
            except BaseException:
                self.abort()
                raise

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UpstreamFailure or ReplyTooLarge."""
        collected = _Collected(self, limit)
        await self.pipe(collected)
        if collected.too_large:
            raise ReplyTooLarge(f"the reply is larger than {limit} bytes")
        if self.failure is not None:
            raise self.failure
        return b"".join(collected.parts)

    @property
    def whole(self) -> bytes | None:
        """The whole body if it has already arrived: it needs no piping then."""
        return self._take() if self.complete and self._sink is None else None

    def pause(self) -> None:
        if self._source is not None:
            self._source.pause_body()

    def resume(self) -> None:
        if self._source is not None:
            self._source.resume_body()

    def abort(self) -> None:
        """Stop the provider by closing the connection; the sink hears nothing more. No effect after the end."""
        source, self._source = self._source, None
        if source is not None:
            self._parts.clear()
            self._finish()
            source.abort()

    # --- called by the connection ---

    def arrived(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:
            self._parts.append(data)
            self.held_bytes += len(data)
            return
        try:
            sink.data(data)
        except Exception as error:  # noqa: BLE001 - the relay is broken, not the provider: `pipe` raises it
            self._sink_broke(error)

    def came_whole(self, body: bytes) -> None:
        """The body came with the head, before anybody could pipe it."""
        self.content_length = self.held_bytes = len(body)
        if body:
            self._parts.append(body)
        self.complete = True
        self._source = None

    def ended(self) -> None:
        self.complete = True
        self._source = None
        if self._sink is not None:
            try:
                self._sink.complete()
            except Exception as error:  # noqa: BLE001 - as above
                self._sink_broke(error)
        self._finish()

    def failed(self, failure: UpstreamFailure) -> None:
        if self._source is None:
            return
        self._source = None
        self.failure = failure
        if self._sink is not None:
            try:
                self._sink.failed(failure)
            except Exception as error:  # noqa: BLE001 - as above
                self._sink_broke(error)
        self._finish()

    def _sink_broke(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
        self.abort()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _take(self) -> bytes:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self.held_bytes = 0
        return data


class _Collected:
    def __init__(self, response: UpstreamResponse, limit: int) -> None:
        self.parts: list[bytes] = []
        self.too_large = False
        self._response = response
        self._left = limit

    def data(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self.too_large = True
            self.parts.clear()
            self._response.abort()
        elif not self.too_large:
            self.parts.append(data)

    def complete(self) -> None:
        pass

    def failed(self, failure: UpstreamFailure) -> None:
        pass
