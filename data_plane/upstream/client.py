"""Sends one request to a provider and returns its reply as soon as its head has arrived.

Nothing is repeated once a byte was written: the call may have been billed. Redirects are passed on, not followed.
"""

import ssl
from collections.abc import AsyncIterable, Callable
from typing import Final

from data_plane.http_headers import Headers
from data_plane.timers import TimerWheel
from data_plane.upstream.base import Base
from data_plane.upstream.failures import Timeouts, UpstreamFailure
from data_plane.upstream.pool import IDLE_MAX, IDLE_S, ConnectionPool
from data_plane.upstream.response import UpstreamResponse

__all__ = ["Base", "Timeouts", "UpstreamFailure", "UpstreamPool", "UpstreamResponse"]

_DEFAULT_TIMEOUTS: Final = Timeouts()
_BLANK: Final = ord(" ")
_BODILESS: Final = frozenset({b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"})
"""Methods for which an empty body is not announced."""


class UpstreamPool:
    """`allow` is asked for every address before it is connected to; the connection stays on the checked address."""

    def __init__(
        self,
        wheel: TimerWheel,
        *,
        allow: Callable[[str], bool] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        idle_s: float = IDLE_S,
        idle_max: int = IDLE_MAX,
    ) -> None:
        self.connections = ConnectionPool(wheel, allow=allow, ssl_context=ssl_context, idle_s=idle_s, idle_max=idle_max)

    async def send(
        self,
        base: Base,
        method: bytes,
        target: bytes,
        *,
        headers: Headers,
        body: bytes | AsyncIterable[bytes],
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        length: int | None = None,
        on_connected: Callable[[], None] | None = None,
    ) -> UpstreamResponse:
        """The reply's head. `headers` hold no Host, Content-Length, Transfer-Encoding or Connection.

        Raises UpstreamFailure; its `bytes_written` says whether the provider may have seen the request. The caller
        reads the reply to its end (`pipe`, `read`) or aborts it. Cancelling the caller closes the connection.
        `on_connected` is called right before the first byte leaves: whoever is cancelled earlier sent nothing.
        A body that comes in pieces has `length` bytes, or is chunked; what it raises before the reply is raised here.
        """
        pieces = None
        if isinstance(body, bytes):
            length = len(body)
        else:
            pieces, body = body, b""
        head = request_head(base, method, target, headers, length=length)
        origin = self.connections.origin(base)
        # A pooled connection found dead is replaced: nothing was written to it.
        connection = origin.take() or await origin.open(timeouts)
        if on_connected is not None:
            on_connected()
        try:
            reply = connection.request(head, body, timeouts, head_only=method == b"HEAD")
            if pieces is not None:
                connection.upload(pieces, length)
            return await reply
        except BaseException:
            connection.abort()
            raise

    def close(self) -> None:
        """Idle connections close now, busy ones after their reply."""
        self.connections.close()


def request_head(base: Base, method: bytes, target: bytes, headers: Headers, *, length: int | None) -> bytes:
    """Raises ValueError if a part would break out of its line."""
    if length is None:
        end = b"Transfer-Encoding: chunked\r\n\r\n"
    else:
        end = b"Content-Length: %d\r\n\r\n" % length if length or method not in _BODILESS else b"\r\n"
    line = b"".join((method, b" ", base.path_bytes, target, base.line_end))
    head = b"\r\n".join([line, *map(b": ".join, headers), end])
    if head.count(b"\n") != len(headers) + 2 + end.count(b"\n") or _BLANK in target:
        raise ValueError("a part of the request contains a line break")
    return head
