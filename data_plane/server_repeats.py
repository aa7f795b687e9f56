"""The head of a connection's last request: clients repeat theirs byte for byte, often all but the digits of the length.

Such a head need not be parsed and checked again. It is compared whole, so it can mean nothing else than it did before.
"""

from typing import Final

from data_plane.http_headers import Headers
from data_plane.http_request import Request

_LENGTH: Final = b"content-length"
_LENGTH_LINE: Final = b"\r\ncontent-length: "


class LastHead:
    """A head that was read and found good, and how to tell it again."""

    __slots__ = ("_after", "_before", "_digits_at", "_headers", "_length_at", "_lower", "_request")

    def __init__(self, request: Request, before: bytes, after: bytes, length_at: int) -> None:
        self._request = request
        # Own lists: the application may change those it was given.
        self._headers: Headers = request.headers.copy()
        self._lower = request.lower.copy()
        self._before = before
        """Up to the digits of the length; the whole head when it has none."""
        self._after = after
        self._digits_at = len(before)
        self._length_at = length_at
        """Of the length among the headers; -1 when there is none."""

    @classmethod
    def of(cls, head: bytes, request: Request) -> "LastHead | None":
        """None where a repetition could not be told for sure."""
        if request.http_10 or b"upgrade" in request.lower:
            return None
        length = request.lower.get(_LENGTH)
        if length is None:
            return cls(request, head, b"", -1)
        digits_at = head.lower().find(_LENGTH_LINE) + len(_LENGTH_LINE)
        end = digits_at + len(length)
        if digits_at < len(_LENGTH_LINE) or head[digits_at : end + 2] != length + b"\r\n":
            return None
        length_at = next(n for n, (name, _) in enumerate(request.headers) if name.lower() == _LENGTH)
        return cls(request, head[:digits_at], head[end:], length_at)

    def again(self, head: bytes, started_ns: int) -> Request | None:
        """The request of this head, if it is the last one again."""
        if not head.startswith(self._before):
            return None
        at = self._length_at
        if at < 0:
            if len(head) != self._digits_at:
                return None
            headers, lower = self._headers.copy(), self._lower.copy()
            size = self._request.content_length
        else:
            end = head.find(b"\r", self._digits_at)
            length = head[self._digits_at : end]
            if not length.isdigit() or len(length) > 15 or head[end:] != self._after:
                return None
            headers, lower = self._headers.copy(), self._lower.copy()
            headers[at] = (headers[at][0], length)
            lower[_LENGTH] = length
            size = int(length)
        last = self._request
        request = Request(last.reader, last.peer, started_ns)
        request.method, request.target, request.headers, request.lower = last.method, last.target, headers, lower
        request.path, request.query, request.repeated = last.path, last.query, last.repeated
        request.content_length, request.memo = size, last.memo
        return request
