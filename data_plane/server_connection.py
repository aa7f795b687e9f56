"""One client connection: requests one at a time, each answered by its own task; all waiting is limited.

What arrives after a request is parked until its reply is finished. A client that reads too slowly pauses whoever
writes to it; one that leaves is reported to the request at once.
"""

import asyncio
from math import inf
from typing import Final, Protocol

from data_plane.chunked import ChunkedError
from data_plane.http_message import (
    BadBody,
    BodiesOverloaded,
    BodyTooLarge,
    ClientGone,
    Headers,
    Request,
    Responder,
    names,
)
from data_plane.server_body import IncomingBody, Reading
from data_plane.server_head import BadHead, HeadReader
from data_plane.server_limits import Limits
from data_plane.server_writing import WriteWatch
from data_plane.timers import TimerWheel

_IDLE: Final = 0
"""No byte of a request yet."""
_HEAD: Final = 1
_BODY: Final = 2
_IN_FLIGHT: Final = 3
"""The request is complete, its reply is not."""
_BROKEN: Final = 4
"""The rest of the request will not be read; its reply is still to come."""
_LINGER: Final = 5
_CLOSED: Final = 6

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_BODY_CHECK_S: Final = 5.0


class ConnectionOwner(Protocol):
    """What a connection needs of its server."""

    limits: Limits
    wheel: TimerWheel
    loop: asyncio.AbstractEventLoop
    draining: bool
    held_bytes: int
    """Of all request bodies in memory."""

    def opened(self, connection: "ServerConnection") -> bool: ...

    def closed(self, connection: "ServerConnection") -> None: ...

    async def answer(self, request: Request, responder: Responder) -> None: ...

    def refusal(self, status: int, code: str, message: str) -> tuple[Headers, bytes]: ...


class ServerConnection(asyncio.Protocol):
    __slots__ = (
        "_body",
        "_heads",
        "_limits",
        "_parked",
        "_reading_paused",
        "_request",
        "_responder",
        "_served",
        "_server",
        "_state",
        "_task",
        "_timer",
        "_writing",
        "peer",
        "transport",
    )

    transport: asyncio.Transport
    _heads: HeadReader
    _writing: WriteWatch

    def __init__(self, server: ConnectionOwner) -> None:
        self._server = server
        self._limits = server.limits
        self._state = _IDLE
        self._request: Request | None = None
        self._responder: Responder | None = None
        self._task: asyncio.Task[None] | None = None
        self._body: IncomingBody | None = None
        self._parked = b""
        self._reading_paused = False
        self._served = 0
        self._timer = server.wheel.timer(self._read_timeout)
        self.peer = ""

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # stream servers give full transports
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        self._heads = HeadReader(self, self._limits, self.peer)
        self._writing = WriteWatch(self.transport, self._server.wheel, self._limits.write_stall_s, self._stalled)
        self.transport.set_write_buffer_limits(high=self._limits.write_high_bytes, low=self._limits.write_low_bytes)
        if self._server.opened(self):
            self._timer.arm(self._limits.idle_timeout_s)

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state <= _HEAD:
            self._read_head(data)
        elif state == _BODY:
            self._read_body(data)
        elif state == _IN_FLIGHT:
            self._park(data)

    def eof_received(self) -> bool | None:
        if _BODY <= self._state <= _BROKEN:
            # A half-closed client is a gone client: nobody should pay for a reply that may never be read.
            self._client_gone()
            self.transport.abort()
        return None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason changes nothing
        try:
            self._client_gone()
        finally:  # whatever the callback of a call did
            self._state = _CLOSED
            self._timer.discard()
            self._writing.discard()
            self._heads.close()
            del self._heads  # it holds this connection
            self._parked = b""
            self._body = None
            self._server.closed(self)

    def pause_writing(self) -> None:
        self._writing.pause()
        if self._responder is not None:
            self._responder.writing_paused()

    def resume_writing(self) -> None:
        self._writing.resume()
        if self._responder is not None:
            self._responder.writing_resumed()
        elif self._state == _IDLE:
            self._next()

    @property
    def write_paused(self) -> bool:
        return self._writing.paused

    # --- requests ---

    def _read_head(self, data: bytes) -> None:
        try:
            begun = self._heads.read(data)
        except BadHead as bad:
            self.refuse(bad.status, bad.code, bad.message)
            return
        if begun is None:
            if self._state == _IDLE and self._heads.begun:
                self._state = _HEAD
                self._timer.arm(self._limits.head_timeout_s)
            return
        request, rest = begun
        self._timer.deadline = inf
        self._served += 1
        responder = Responder(self, request.method == b"HEAD", request.http_10)
        connection = request.lower.get(b"connection")
        if request.http_10:
            responder.keep_alive = names(connection, b"keep-alive")
        elif connection is not None:
            responder.keep_alive = not names(connection, b"close")
        self._request, self._responder = request, responder
        self._place_body(request, rest)
        self._task = self._server.loop.create_task(self._server.answer(request, responder))

    def _place_body(self, request: Request, rest: bytes) -> None:
        length = request.content_length
        if length == 0:
            request.complete = True
            self._state = _IN_FLIGHT
            if rest:
                self._park(rest)
        elif length == len(rest) and b"upgrade" not in request.lower:
            self._heads.skip_body(rest)
            request.arrived(rest)
            request.complete = True
            self._state = _IN_FLIGHT
            self._server.held_bytes += length
        else:
            self._heads.skip_body(None)
            self._state = _BODY
            self._body = IncomingBody(request, self._limits)
            if rest:
                self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        body, server = self._body, self._server
        assert body is not None
        request = body.request
        held = request.held_bytes
        try:
            rest = body.feed(data, server.wheel.now)
        except ChunkedError:
            self._break(BadBody())
            return
        except BodyTooLarge as error:
            self._break(error)
            return
        finally:
            server.held_bytes += request.held_bytes - held
        if server.held_bytes > self._limits.body_buffered_bytes:
            self._break(BodiesOverloaded())
        elif rest is not None:
            self._body_complete(request, rest)
        elif body.far_ahead:
            self._pause_reading()
        request.wake()

    def _body_complete(self, request: Request, rest: bytes) -> None:
        request.complete = True
        self._body = None
        self._timer.disarm()
        self._state = _IN_FLIGHT
        if rest:
            self._park(rest)

    def _break(self, error: Exception) -> None:
        """The request cannot be completed: whoever waits for it hears why and answers; then the connection closes."""
        assert self._request is not None
        self._state = _BROKEN
        self._timer.disarm()
        self._pause_reading()
        self._request.fail(error)

    def _park(self, data: bytes) -> None:
        self._parked += data
        if len(self._parked) > self._limits.pipelined_bytes:
            self._pause_reading()

    def _pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    # --- called by the request ---

    def want_body(self, limit: int, *, whole: bool) -> None:
        body, request = self._body, self._request
        if body is None or request is None or body.request is not request or self._state != _BODY:
            return
        if body.seen > limit:
            self._break(BodyTooLarge(limit))
            return
        body.want(Reading.WHOLE if whole else Reading.PIECES, limit, self._server.wheel.now)
        if not body.seen and not request.http_10 and names(request.lower.get(b"expect"), b"100-continue"):
            self.transport.write(_CONTINUE)
        self._timer.arm(_BODY_CHECK_S)
        if not body.far_ahead:
            self._resume_reading()

    def body_taken(self, size: int) -> None:
        self._server.held_bytes -= size
        body = self._body
        if body is not None and self._state == _BODY and not body.far_ahead:
            self._resume_reading()

    # --- called by the responder ---

    def keeps_alive(self) -> bool:
        return (
            self._state == _IN_FLIGHT
            and self._served < self._limits.requests_per_connection
            and not self._server.draining
        )

    def reply_ended(self, close: bool) -> None:
        request = self._request
        self._request = self._responder = None
        if request is not None and not request.complete:
            request.fail(ClientGone())  # the rest of the body will not be read
        if not close and not self._server.draining:
            self._state = _IDLE
            self._timer.arm(self._limits.idle_timeout_s)
            if self._parked or self._reading_paused or self._writing.paused:
                self._next()
        elif self._state == _IN_FLIGHT and not self._parked:
            self._close()
        else:
            self._linger()

    def cut(self, reset: bool) -> None:
        if self._request is not None:
            self._request.fail(ClientGone())
        self._request = self._responder = None
        self._state = _CLOSED
        if reset:
            self.transport.abort()
        else:
            self._close()

    # --- between and after requests ---

    def _next(self) -> None:
        """Go on with what was parked, unless the client does not read its replies."""
        if self._writing.paused:
            self._pause_reading()
            return
        parked, self._parked = self._parked, b""
        self._resume_reading()
        if parked:
            self._read_head(parked)

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer what never became a request, and close."""
        headers, body = self._server.refusal(status, code, message)
        responder = Responder(self, head_only=False, http_10=False)
        responder.keep_alive = False
        self._responder = responder
        self._state = _BROKEN
        responder.send(status, headers, body)

    def shut_when_idle(self) -> None:
        """Close now if nothing is in flight; otherwise the reply in flight will say `Connection: close`."""
        if self._state <= _HEAD:
            self._state = _CLOSED
            self._close()

    def _close(self) -> None:
        """Close after what was written is sent; a client that does not read it is cut off."""
        self._timer.disarm()
        if self._state != _LINGER:
            self._state = _CLOSED
        self._writing.watch()
        self.transport.close()

    def _linger(self) -> None:
        """Closing with unread input would reset the connection, and the client might never see the reply."""
        self._state = _LINGER
        self._parked = b""
        self._timer.arm(self._limits.linger_s)
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._resume_reading()
        else:
            self._close()

    def _client_gone(self) -> None:
        request, responder = self._request, self._responder
        self._request = self._responder = None
        if self._state < _LINGER:
            self._state = _CLOSED
        if responder is not None:
            responder.client_gone()
        if request is not None:
            request.client_gone()

    # --- time ---

    def _read_timeout(self) -> None:
        if self._state == _BODY:
            self._check_body()
        elif self._state == _HEAD:
            self.refuse(408, "request_timeout", "The request headers did not arrive in time.")
        elif not self.transport.get_write_buffer_size():
            self._close()
        elif self._writing.reads():  # its last reply, slowly
            self._timer.arm(self._limits.write_stall_s)
        else:
            self.transport.abort()

    def _check_body(self) -> None:
        body = self._body
        assert body is not None
        if self._reading_paused:
            # We are the slow ones: the clock of the client stands still.
            body.want(body.reading, body.total_max, self._server.wheel.now)
        late = body.overdue(self._server.wheel.now)
        if late is None:
            self._timer.arm(_BODY_CHECK_S)
        else:
            self._break(late)

    def _stalled(self) -> None:
        """The client reads nothing: it is treated as gone."""
        self._client_gone()
        self.transport.abort()
