"""The flow every reply takes past a meter: whole JSON bodies, and events. Dialects say what an event means.

A body is judged by its first byte, not by what was asked for: providers answer streams with JSON errors.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Final

from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.json_text import parse, salvage
from data_plane.providers.sse import HEAD_BYTES, TAIL_BYTES, Splitter, parse_event, raw_events
from data_plane.providers.template import Template

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of a larger JSON reply only a head and a tail are kept."""
LESSONS: Final = 8
"""Events in a row that may be tried as a pattern without one of them being any use."""
_FIELDS: Final = (b"data:", b"event:", b":", b"id:", b"retry:")
_BLANK: Final = b"\xef\xbb\xbf \t\r\n"


class BodyMeter:
    """Collects a JSON reply and reads it at the end."""

    __slots__ = ("_bytes", "_chunks", "_head", "_limit", "_read")

    def __init__(self, read: Callable[[bytes, bytes], Reading], body_bytes_max: int = BODY_BYTES_MAX) -> None:
        """`read` gets the head and the tail of a body too large to keep, else `b""` and the body."""
        self._read = read
        self._limit = body_bytes_max
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._head = b""

    def feed(self, chunk: bytes) -> bytes:
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        if self._bytes > (TAIL_BYTES * 2 if self._head else self._limit):
            kept = b"".join(self._chunks)
            self._head = self._head or kept[:HEAD_BYTES]
            self._chunks = [kept[-TAIL_BYTES:]]
            self._bytes = TAIL_BYTES
        return chunk

    def reading(self) -> Reading:
        return Reading()

    def finish(self) -> tuple[bytes, Reading]:
        return b"", self._read(self._head, b"".join(self._chunks))

    def in_band(self, code: str, message: str) -> bytes:  # noqa: ARG002 - nothing can be said
        """A JSON body that began cannot be mended."""
        return b""


class EventMeter:
    """Reads an event stream. Subclasses say what an event means, and which deltas are the pattern of others."""

    _done: ClassVar[bytes] = b""
    """Data that is no JSON and ends the stream."""
    _usage_key: ClassVar[str] = "usage"

    __slots__ = (
        "_body",
        "_cut_open",
        "_facts",
        "_idle",
        "_lessons",
        "_match",
        "_odd",
        "_read_body",
        "_reading",
        "_splitter",
        "_started",
        "_template",
    )

    def __init__(self, facts: Facts, read_body: Callable[[bytes, bytes], Reading], *, withhold: bool = False) -> None:
        self._facts = facts
        self._read_body = read_body
        self._reading = Reading(reasoning_hidden=facts.reasoning_hidden)
        self._splitter = Splitter(withhold=withhold)
        self._template = Template()
        self._match = self._template.match
        self._lessons = LESSONS
        self._idle = False
        """Between two events, so that a read begins with a new one."""
        self._body: BodyMeter | None = None
        self._started = False
        self._cut_open = False
        self._odd = False

    def feed(self, chunk: bytes) -> bytes:
        if not self._idle:
            self._take(chunk)
            return chunk
        match, reading, template = self._match, self._reading, self._template
        at, size = 0, len(chunk)
        while at < size:
            end = match(chunk, at)
            if end < 0:
                self._take(chunk[at:] if at else chunk)
                break
            reading.output_deltas += 1
            reading.output_bytes += template.text_bytes
            self._lessons = LESSONS
            at = end
        return chunk

    def _take(self, chunk: bytes) -> None:
        """Bytes that are not, or not only, events that match the template."""
        if not self._started:
            self._start(chunk)
        if self._body is not None:
            self._body.feed(chunk)
            return
        splitter = self._splitter
        block = splitter.feed(chunk)
        if splitter.head:
            block = self._without_giant(block)
        if block:
            self._block(block)
        self._idle = self._started and not splitter.holding

    def reading(self) -> Reading:
        return self._settled()

    def finish(self) -> tuple[bytes, Reading]:
        if self._body is not None:
            return self._body.finish()
        rest = self._splitter.finish()
        self._cut_open = bool(rest)
        if rest:
            # Without its blank line an event is lost to strict clients, but its usage was spent.
            self._events(self._without_giant(rest) if self._splitter.head else rest, complete=False)
        reading = self._settled()
        if reading.blank and self._odd:
            reading.flag("unparsable")
        return (rest if self._splitter.withholds else b""), reading

    def in_band(self, code: str, message: str) -> bytes:
        if self._body is not None:
            return self._body.in_band(code, message)
        prefix = b"\n\n" if self._cut_open or self._splitter.partly_passed else b""
        return prefix + self._error_event(code, message)

    def _start(self, chunk: bytes) -> None:
        first = chunk.lstrip(_BLANK)[:1]
        if first:
            self._started = True
            if first == b"{":
                self._body = BodyMeter(self._read_body)
            begin = chunk.lstrip(_BLANK)[:6]
            self._odd = not any(begin.startswith(field) or field.startswith(begin) for field in _FIELDS)

    def _without_giant(self, block: bytes) -> bytes:
        """The block after an oversized first event, which is read from its head and tail."""
        tail = next(raw_events(block))
        self._reading.output_bytes += len(tail)
        found = salvage(self._splitter.head, tail, self._usage_key)
        if found is not None:
            self._document(found)
        return block[len(tail) :]

    def _events(self, block: bytes, *, complete: bool = True) -> None:
        for raw in raw_events(block):
            self._event(raw, complete=complete)

    def _event(self, raw: bytes, *, complete: bool = True) -> None:
        name, payload = parse_event(raw)
        if payload:
            self._payload(name, payload, complete=complete)

    def _payload(self, name: str, payload: bytes, *, complete: bool) -> None:
        try:
            document = parse(payload)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict):
            if name and "type" not in document:
                document["type"] = name
            self._document(document)
        elif self._done and payload.strip() == self._done:
            self._reading.finished = True
        elif complete:
            self._reading.output_bytes += len(payload)
            self._reading.flag("unparsable")

    def _block(self, block: bytes) -> None:
        """Complete events, in order."""
        if b"\r" in block:
            self._events(block)
            return
        template, reading = self._template, self._reading
        at, size = 0, len(block)
        while at < size:
            end = template.match(block, at)
            if end > 0:
                reading.output_deltas += 1
                reading.output_bytes += template.text_bytes
                self._lessons = LESSONS
            else:
                end = block.find(b"\n\n", at) + 2
                self._study(block[at:end])
            at = end

    def _study(self, raw: bytes) -> None:
        """Reads an event, and takes it as a pattern when others may differ from it in their text alone."""
        before = self._reading.output_deltas
        self._event(raw)
        if self._lessons and self._reading.output_deltas == before + 1:
            self._lessons -= 1  # a stream without a pattern is not studied for ever
            self._learn(raw)

    def _learn(self, raw: bytes) -> None:
        """Called with an event that showed text. May teach the template."""

    def _document(self, document: dict[str, Any]) -> None:
        """One event's data."""
        raise NotImplementedError

    def _settled(self) -> Reading:
        """The reading with its usage worked out."""
        raise NotImplementedError

    def _error_event(self, code: str, message: str) -> bytes:
        raise NotImplementedError


def read_document(head: bytes, body: bytes, usage_key: str, read: Callable[[dict[str, Any], Reading], None]) -> Reading:
    """Reads a JSON reply, or what was kept of one. What cannot be read is flagged, never raised."""
    reading = Reading()
    document: Any = None
    if head:
        document = salvage(head, body, usage_key)
        reading.output_bytes = len(body)
    else:
        try:
            document = parse(body)
        except (ValueError, RecursionError):
            document = None
    if not isinstance(document, dict):
        reading.flag("unparsable")
        return reading
    reading.finished = True
    read(document, reading)
    return reading
