"""The bytes that a stream's text deltas have in common, so that most of them need no parsing.

Consecutive deltas of one stream differ in their text, and some providers pad them. What equals a parsed event in all
else means the same.
"""

import re
from typing import Final

import orjson

_REST_OF_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+"')
_END_OF_STRING: Final = b'"}\n\n'
_END_OF_OBJECT: Final = b"}\n\n"
_NEVER: Final = b"\0"
_BACKSLASH: Final = 0x5C


class Template:
    """Set by `learn`, tried by `match`. Until something was learned nothing matches."""

    __slots__ = (
        "_end",
        "_prefix",
        "_prefix_bytes",
        "_shown_suffix",
        "_suffix",
        "_suffix_bytes",
        "_text_end",
        "text_bytes",
    )

    def __init__(self) -> None:
        self._suffix = self._shown_suffix = self._end = b""
        self._suffix_bytes = self._text_end = 0
        self.text_bytes = 0
        """Of the last match: bytes of its text, escapes undone."""
        self.forget()

    def forget(self) -> None:
        self._prefix = _NEVER
        self._prefix_bytes = 1

    def learn(self, raw: bytes, key: bytes, *, padding: bytes = b"") -> bool:
        """Takes the event as the pattern when its text is the one value of `key`.

        `padding` is the key of a string that varies too and ends the event.
        """
        mark = b'"' + key + b'":"'
        start = raw.find(mark) + len(mark)
        if start < len(mark) or raw.find(mark, start) >= 0 or not raw.endswith(_END_OF_OBJECT) or b"\r" in raw:
            return False
        text = _REST_OF_STRING.match(raw, start)
        if text is None:
            return False
        end = text.end() - 1
        suffix = raw[end:]
        self._end = b""
        if padding and (at := suffix.rfind(b'"' + padding + b'":"')) >= 0:
            suffix, self._end = suffix[: at + len(padding) + 4], _END_OF_STRING
        elif suffix.startswith(b'"}') and not suffix[2:-3].strip(b" "):
            suffix, self._end = b'"}', _END_OF_OBJECT  # blanks of varying number
        self._prefix, self._prefix_bytes = raw[:start], start
        self._suffix = self._shown_suffix = suffix
        self._suffix_bytes = len(suffix)
        return True

    def match(self, block: bytes, at: int) -> int:
        """The end of the event at `at` when only its text differs from the pattern's; else -1."""
        if not block.startswith(self._prefix, at):
            return -1
        start = at + self._prefix_bytes
        end = block.find(b'"', start)
        if end <= start:
            return -1
        text = block[start:end]
        if _BACKSLASH in text:
            whole = _REST_OF_STRING.match(block, start)
            if whole is None:
                return -1
            end = whole.end() - 1
            size = _decoded_bytes(block[start - 1 : end + 1])
            if size < 0:
                return -1
        else:
            size = end - start
        if not block.startswith(self._suffix, end):
            return -1
        self.text_bytes = size
        self._text_end = end
        close = end + self._suffix_bytes
        if self._end is _END_OF_STRING:
            close = block.find(b'"', close)
            return close + 4 if block[close : close + 4] == _END_OF_STRING else -1
        if self._end is _END_OF_OBJECT:
            blanks = close
            close = block.find(b"}", close)
            return close + 3 if block[close : close + 3] == _END_OF_OBJECT and not block[blanks:close].strip() else -1
        return close

    def cut(self, part: bytes) -> None:
        """What `shown` leaves out from now on: the first such part after the text."""
        self._shown_suffix = self._suffix.replace(part, b"", 1)

    def shown(self, block: bytes, at: int, end: int) -> bytes:
        """The event that was matched last, as clients see it."""
        return block[at : self._text_end] + self._shown_suffix + block[self._text_end + self._suffix_bytes : end]


def _decoded_bytes(literal: bytes) -> int:
    try:
        return len(orjson.loads(literal).encode())
    except orjson.JSONDecodeError:
        return -1
