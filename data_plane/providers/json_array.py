"""A JSON array that arrives in pieces: its elements, each as soon as it is complete."""

import re
from typing import Final

from data_plane.providers.sse import EVENT_BYTES_MAX, HEAD_BYTES, TAIL_BYTES

_PLAIN: Final = re.compile(rb'["{}\[\]]')
_STRING: Final = re.compile(rb'["\\]')
_QUOTE, _BACKSLASH = b'"\\'
_OPEN: Final = frozenset(b"{[")


class ArraySplitter:
    """Cuts an array into its elements, which must be objects or arrays. `head` as in `sse.Splitter`."""

    __slots__ = (
        "_depth",
        "_escaped",
        "_held",
        "_held_bytes",
        "_in_string",
        "_limit",
        "_pending_head",
        "closed",
        "seen",
    )

    def __init__(self, *, element_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self.closed = False
        self.seen = 0
        """Elements that began."""
        self._limit = element_bytes_max
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._pending_head = b""

    @property
    def opened(self) -> bool:
        return self._depth > 0 or self.closed

    def feed(self, chunk: bytes) -> list[tuple[bytes, bytes]]:
        """The elements that are complete now. Of one too large to keep: its head and its tail; else `b""` and all."""
        complete: list[tuple[bytes, bytes]] = []
        start = 0
        at = 1 if self._escaped and chunk else 0
        self._escaped = self._escaped and not chunk
        while (found := (_STRING if self._in_string else _PLAIN).search(chunk, at)) is not None:
            at = found.end()
            mark = chunk[at - 1]
            if self._in_string:
                if mark == _QUOTE:
                    self._in_string = False
                elif at < len(chunk):
                    at += 1
                else:
                    self._escaped = True
            elif mark == _QUOTE:
                self._in_string = True
            elif mark in _OPEN:
                self._depth += 1
                if self._depth == 2:
                    start = at - 1
                    self.seen += 1
            else:
                self._depth -= 1
                if self._depth == 1:
                    complete.append((self._pending_head, b"".join((*self._held, chunk[start:at]))))
                    self._held.clear()
                    self._held_bytes, self._pending_head = 0, b""
                elif self._depth == 0:
                    self.closed = True
        if self._depth > 1:
            self._hold(chunk[start:])
        return complete

    def _hold(self, piece: bytes) -> None:
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > (TAIL_BYTES * 2 if self._pending_head else self._limit):
            held = b"".join(self._held)
            self._pending_head = self._pending_head or held[:HEAD_BYTES]
            self._held = [held[-TAIL_BYTES:]]
            self._held_bytes = TAIL_BYTES
