"""Server-sent events, incrementally: split at any byte, any line ending, bounded memory.

Hot path: a read that holds whole events comes back as the same object, and no line of it is looked at here.
"""

import re
from collections.abc import Iterator
from typing import Final

EVENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of a larger event only a head and a tail are kept."""
HEAD_BYTES: Final = 4 * 1024
TAIL_BYTES: Final = 256 * 1024

BOUNDARY: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class Splitter:
    """Cuts a byte stream after its last complete event.

    `head` is not empty when the first event of the block just returned was too large to keep: the block then begins
    with that event's tail.
    """

    __slots__ = ("_held", "_held_bytes", "_limit", "_pending_head", "_released", "head", "withholds")

    def __init__(self, *, withhold: bool = False, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        """`withhold`: clients see events only when complete; what is let go of an oversized one is in `released`."""
        self.head = b""
        self._limit = event_bytes_max
        self.withholds = withhold
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._pending_head = b""
        self._released: list[bytes] = []

    @property
    def holding(self) -> bool:
        return bool(self._held)

    @property
    def partly_passed(self) -> bool:
        """Whether the client has seen a part of an event only."""
        return bool(self._pending_head if self.withholds else self._held)

    def feed(self, chunk: bytes) -> bytes:
        """All events that are complete now, as one block; empty when there is none."""
        self.head = b""
        if not self._held:
            if chunk.endswith((b"\n\n", b"\r\n\r\n")):
                return chunk
            cut = _last_boundary(chunk)
            if cut <= 0:
                self._hold(chunk)
                return b""
            if cut < len(chunk):
                self._hold(chunk[cut:])
            return chunk[:cut]
        before = self._held[-1][-3:]
        if len(before) < 3:
            before = b"".join(self._held[-3:])[-3:]
        cut = _last_boundary(before + chunk) - len(before)
        if cut < 0:
            self._hold(chunk)
            return b""
        self._held.append(chunk[:cut])
        block = b"".join(self._held)
        self.head, self._pending_head = self._pending_head, b""
        self._held.clear()
        self._held_bytes = 0
        if cut < len(chunk):
            self._hold(chunk[cut:])
        return block

    def released(self) -> bytes:
        """Bytes of an oversized event that are no longer held, to be passed on before the next block."""
        if not self._released:
            return b""
        out = b"".join(self._released)
        self._released.clear()
        return out

    def finish(self) -> bytes:
        """What follows the last complete event."""
        self.head, self._pending_head = self._pending_head, b""
        rest = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return rest

    def _hold(self, chunk: bytes) -> None:
        if not chunk:
            return
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        limit = TAIL_BYTES * 2 if self._pending_head else self._limit
        if self._held_bytes <= limit:
            return
        held = b"".join(self._held)
        if not self._pending_head:
            self._pending_head = held[:HEAD_BYTES]
        if self.withholds:
            self._released.append(held[:-TAIL_BYTES])
        self._held = [held[-TAIL_BYTES:]]
        self._held_bytes = len(self._held[0])


def _last_boundary(text: bytes) -> int:
    """The end of the last blank line, -1 without one. A final CR may be half of a CRLF, so it ends nothing yet."""
    if b"\r" not in text:
        at = text.rfind(b"\n\n")
        return at + 2 if at >= 0 else -1
    end = -1
    for match in BOUNDARY.finditer(text):
        if match.end() < len(text) or text[-1:] == b"\n":
            end = match.end()
    return end


def raw_events(block: bytes) -> Iterator[bytes]:
    """The events of a block as they stand, each with its blank line."""
    start = 0
    returns = block.count(b"\r")
    if not returns or returns == block.count(b"\n") == block.count(b"\r\n"):
        boundary = b"\r\n\r\n" if returns else b"\n\n"
        size = len(boundary)
        while (end := block.find(boundary, start) + size) >= size:
            yield block[start:end]
            start = end
    else:
        for match in BOUNDARY.finditer(block):
            yield block[start : match.end()]
            start = match.end()
    if start < len(block):
        yield block[start:]


def parse_event(raw: bytes) -> tuple[str, bytes]:
    """The name and the joined data lines of one event; both empty where it has none."""
    if raw.startswith(b"data: "):
        data_line = raw[6:].rstrip(b"\r\n")
        if b"\n" not in data_line and b"\r" not in data_line:
            return "", data_line
    name = ""
    lines: list[bytes] = []
    for line in _LINE.split(raw.removeprefix(_BOM)):
        field, _, value = line.partition(b":")
        if field == b"data":
            lines.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ").decode(errors="replace")
    return name, b"\n".join(lines)
