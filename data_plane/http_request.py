"""One request as its connection read it: raw bytes, a lower-cased view of the headers, and a body on demand."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from data_plane.http_headers import Headers
from shared.errors import RequestRefusal, Unavailable

_PARTS_MAX: Final = 1_024
NO_REPEATS: Final[frozenset[bytes]] = frozenset()


class BodyTooLarge(RequestRefusal):
    def __init__(self, limit_bytes: int) -> None:
        message = f"The request body is larger than {limit_bytes} bytes."
        super().__init__(413, "payload_too_large", message, details={"limit_bytes": limit_bytes}, close=True)


class BodyTimeout(RequestRefusal):
    def __init__(self) -> None:
        super().__init__(408, "request_timeout", "The request body arrived too slowly.", close=True)


class BadBody(RequestRefusal):
    def __init__(self) -> None:
        super().__init__(400, "bad_request", "The request body is not validly chunked.", close=True)


class BodiesOverloaded(Unavailable):
    def __init__(self) -> None:
        super().__init__("overloaded", "Too many request bodies are in memory; try again.", 1, close=True)


class ClientGone(Exception):
    """The client closed the connection before its request was complete; nobody is left to answer."""


class BodyReader(Protocol):
    """What a request needs of its connection while the body is still arriving."""

    def want_body(self, limit: int, *, whole: bool) -> None:
        """Somebody waits: ask for the body (100-continue), read, keep the clock."""

    def body_taken(self, size: int) -> None: ...


class Request:
    __slots__ = (
        "_error",
        "_gone_callback",
        "_parts",
        "_waiter",
        "complete",
        "content_length",
        "gone",
        "headers",
        "held_bytes",
        "http_10",
        "lower",
        "memo",
        "method",
        "path",
        "peer",
        "query",
        "reader",
        "repeated",
        "started_ns",
        "target",
    )

    method: bytes
    target: bytes
    """As sent, query included; it starts with `/`."""
    path: bytes
    query: bytes
    headers: Headers
    lower: dict[bytes, bytes]
    """Lower-cased name to value, surrounding blanks removed; of a repeated header the first."""
    repeated: set[bytes] | frozenset[bytes]
    """Lower-cased names that came more than once."""

    def __init__(self, reader: BodyReader, peer: str, started_ns: int) -> None:
        self.reader = reader
        self.peer = peer
        self.started_ns = started_ns
        self.repeated = NO_REPEATS
        self.memo: dict[str, Any] = {}
        """For what follows from the head alone, less its length: the same dict while a client repeats its head."""
        self.http_10 = False
        self.content_length: int | None = 0
        """None when the body is chunked."""
        self.complete = False
        """The whole body has arrived."""
        self.gone = False
        """The client closed the connection while this request was in flight."""
        self.held_bytes = 0
        self._parts: list[bytes | bytearray] = []
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._gone_callback: Callable[[], None] | None = None

    async def body(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes.

        Raises BodyTooLarge, BodyTimeout, BadBody, BodiesOverloaded (all refusals) or ClientGone.
        """
        if not self.complete:
            self._check_declared(limit)
            self.reader.want_body(limit, whole=True)
            while not self.complete:
                await self._wait()
        if self._error is not None:
            raise self._error
        if self.held_bytes > limit:
            raise BodyTooLarge(limit)
        parts = self._parts
        if len(parts) != 1:
            parts[:] = [b"".join(parts)]
        whole = parts[0]
        assert isinstance(whole, bytes)
        return whole

    async def chunks(self, limit: int) -> AsyncIterator[bytes]:
        """The body as it arrives, never more than a read or two of it in memory. Raises like `body`."""
        self._check_declared(limit)
        if not self.complete:
            self.reader.want_body(limit, whole=False)
        while True:
            if self._parts:
                yield self._take()
            elif self.complete:
                return
            else:
                await self._wait()

    def on_disconnect(self, callback: Callable[[], None] | None) -> None:
        """Call back, once, when the client goes away before the reply is finished."""
        self._gone_callback = callback
        if callback is not None and self.gone:
            asyncio.get_running_loop().call_soon(self.client_gone)

    # --- called by the connection ---

    def arrived(self, data: bytes) -> None:
        self.held_bytes += len(data)
        parts = self._parts
        if len(parts) < _PARTS_MAX:
            parts.append(data)
            return
        # Bytes objects of a few bytes each would take many times the memory they are counted with.
        tail = parts[-1]
        if isinstance(tail, bytearray):
            tail += data
        else:
            parts[-1] = bytearray(tail + data)

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """The body will never be complete."""
        if self._error is None and not self.complete:
            self._error = error
            self.wake()

    def client_gone(self) -> None:
        self.gone = True
        self.fail(ClientGone())
        callback, self._gone_callback = self._gone_callback, None
        if callback is not None:
            callback()

    def drop_body(self) -> None:
        """Nobody will read the body any more."""
        self._parts.clear()
        self.held_bytes = 0

    def _take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        self.held_bytes -= len(data)
        self.reader.body_taken(len(data))
        return data

    def _check_declared(self, limit: int) -> None:
        if self.content_length is not None and self.content_length > limit:
            raise BodyTooLarge(limit)

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error
