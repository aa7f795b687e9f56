"""A request body that did not come with its head: cut out of the stream, counted, and timed. No transport."""

from enum import Enum, auto

from data_plane.chunked import ChunkedDecoder
from data_plane.http_message import BodyTimeout, BodyTooLarge, Request
from data_plane.server_limits import Limits
from shared.errors import RequestRefusal


class Reading(Enum):
    """How much of a body somebody waits for."""

    AHEAD = auto()
    """Nobody asked yet: a little is read ahead."""
    WHOLE = auto()
    PIECES = auto()
    """Pieces are taken as they come; little is held at any time."""


class IncomingBody:
    __slots__ = ("_begun_at", "_chunks", "_left", "_limits", "_seen_at", "reading", "request", "seen", "total_max")

    def __init__(self, request: Request, limits: Limits) -> None:
        self.request = request
        self._limits = limits
        self._left = request.content_length
        self._chunks: ChunkedDecoder | None = None
        if self._left is None:
            self._chunks = ChunkedDecoder(limits.chunk_extension_bytes, limits.trailer_bytes)
        self.reading = Reading.AHEAD
        self.seen = 0
        self.total_max = limits.body_streamed_bytes
        self._begun_at = 0.0
        self._seen_at = 0.0

    def want(self, reading: Reading, limit: int, now: float) -> None:
        self.reading = reading
        self.total_max = limit
        self._begun_at = self._seen_at = now

    def feed(self, data: bytes, now: float) -> bytes | None:
        """What follows the body once it is complete, None before. Raises ChunkedError, BodyTooLarge."""
        request = self.request
        self._seen_at = now
        rest: bytes | None = None
        if self._chunks is None:
            assert self._left is not None
            if len(data) >= self._left:
                data, rest = data[: self._left], data[self._left :]
            self._left -= len(data)
            pieces = [data] if data else []
        else:
            pieces, after = self._chunks.feed(data)
            if self._chunks.done:
                rest = after
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self.seen += len(piece)
            request.arrived(piece)
        if self.seen > self.total_max:
            raise BodyTooLarge(self.total_max)
        return rest

    @property
    def far_ahead(self) -> bool:
        """Enough is held until somebody takes it."""
        return self.reading is not Reading.WHOLE and self.request.held_bytes > self._limits.body_ahead_bytes

    def overdue(self, now: float) -> RequestRefusal | None:
        """The body stalled, trickles or takes too long."""
        limits, elapsed = self._limits, now - self._begun_at
        wanted = limits.body_bytes_per_window * (elapsed // limits.body_rate_window_s)
        if self.seen < wanted or now - self._seen_at >= limits.body_stall_s or elapsed >= limits.body_total_s:
            return BodyTimeout()
        return None
