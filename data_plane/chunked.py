"""The chunked coding of request bodies, decoded strictly: the end is known to the byte, all else bounded.

The head parser is not used for this: it cannot say where a body ended, nor limit chunk extensions.
"""

import re
from typing import Final

# At most 15 digits: no size can overflow, or be read differently, further down the line.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})((?:;[\t\x20-\x7e]*)?)")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")

_SIZE: Final = 0
_DATA: Final = 1
_DATA_END: Final = 2
_TRAILERS: Final = 3
_DONE: Final = 4


class ChunkedError(Exception):
    """The body is not validly chunked; where the next request would start is unknown."""


class ChunkedDecoder:
    __slots__ = ("_extension_max", "_held", "_left", "_state", "_trailer_left")

    def __init__(self, extension_bytes_max: int, trailer_bytes_max: int) -> None:
        self._state = _SIZE
        self._left = 0
        self._held = b""
        self._extension_max = extension_bytes_max
        self._trailer_left = trailer_bytes_max

    @property
    def done(self) -> bool:
        return self._state == _DONE

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Decoded pieces, and what follows the end of the body. Raises ChunkedError."""
        if self._held:
            data, self._held = self._held + data, b""
        out: list[bytes] = []
        at, size = 0, len(data)
        while at < size and self._state != _DONE:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                out.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _DATA_END
                continue
            end = data.find(b"\r\n", at)
            line = data[at:] if end < 0 else data[at:end]
            if end < 0:
                self._check_unfinished(line)
                self._held = line
                return out, b""
            at = end + 2
            self._line(line)
        return out, data[at:]

    def _line(self, line: bytes) -> None:
        if self._state == _DATA_END:
            if line:
                raise ChunkedError("a chunk is longer than its size")
            self._state = _SIZE
        elif self._state == _SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None or len(match[2]) > self._extension_max:
                raise ChunkedError("bad chunk size or extension")
            self._left = int(match[1], 16)
            self._state = _DATA if self._left else _TRAILERS
        elif not line:
            self._state = _DONE
        else:
            # Trailers are dropped: a trailer must not be able to set what a header sets.
            self._trailer_left -= len(line)
            if self._trailer_left < 0 or _TRAILER.fullmatch(line) is None:
                raise ChunkedError("bad trailer")

    def _check_unfinished(self, line: bytes) -> None:
        """A line without its end yet: refuse what cannot become valid, so that little is ever held."""
        if self._state == _DATA_END:
            if line != b"\r":
                raise ChunkedError("a chunk is longer than its size")
        elif self._state == _SIZE:
            whole = line.removesuffix(b"\r")
            if len(line) > self._extension_max + 17 or (whole and _SIZE_LINE.fullmatch(whole) is None):
                raise ChunkedError("bad chunk size or extension")
        elif len(line) > self._trailer_left + 1:
            raise ChunkedError("bad trailer")
