"""The head of a request: raw bytes to a Request, or a refusal. No transport, no clock of its own.

httptools is strict about syntax but has no limits, says nothing about positions, and takes more protocols than ours:
so bytes are counted here, the request line is compared to the byte, and framing headers are checked again.
"""

import re
from time import perf_counter_ns
from typing import Final

import httptools

from data_plane.http_headers import Headers, names
from data_plane.http_request import BodyReader, Request
from data_plane.server_limits import Limits
from data_plane.server_repeats import LastHead

_HOST: Final = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=-]*(?::\d*)?|\[[0-9A-Fa-f:.]+\](?::\d*)?")
_VERSIONS: Final = (b" HTTP/1.1", b" HTTP/1.0")
_PARSED_MAX: Final = 16
_SLASH: Final = ord("/")
_HASH: Final = ord("#")
_BAD_LINE: Final = "The request line is not valid HTTP/1.1."


class BadHead(Exception):
    """The head is refused; where the next request would start is not known any more."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class HeadReader:
    """Reads the heads of one connection, one after the other."""

    __slots__ = (
        "_body_reader",
        "_headers",
        "_host_seen",
        "_last",
        "_limits",
        "_parsed",
        "_parser",
        "_partial",
        "_started_ns",
        "_target",
        "_unfed",
        "peer",
    )

    def __init__(self, body_reader: BodyReader, limits: Limits, peer: str) -> None:
        self._body_reader = body_reader
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Headers = []
        self._partial: bytearray | None = None
        self._started_ns = 0
        self._host_seen: bytes | None = None
        self._last: LastHead | None = None
        self._parsed = 0
        self._unfed = False
        """The parser saw nothing of the request just read."""
        self.peer = peer

    @property
    def begun(self) -> bool:
        """A part of a head was read."""
        return self._partial is not None

    def read(self, data: bytes) -> tuple[Request, bytes] | None:
        """The request and the bytes after its head, or None when the head is not complete. Raises BadHead."""
        if self._partial is not None:
            return self._read_more(data)
        self._started_ns = perf_counter_ns()
        if data[:2] == b"\r\n":  # one empty line before a request is tolerated
            data = data[2:]
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            return self._read_more(data) if data else None
        head = data[:end]
        if self._last is not None:
            again = self._last.again(head, self._started_ns)
            if again is not None:
                self._unfed = True
                return again, data[end:]
        try:
            self._parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._rejected(error)
        request = self._request(head)
        self._parsed += 1
        if 1 < self._parsed < _PARSED_MAX:  # a connection of one request is not worth it, nor one that never repeats
            self._last = LastHead.of(head, request)
        return request, data[end:]

    def skip_body(self, body: bytes | None) -> None:
        """The body of the request just read does not pass through here: bring the parser to the next head."""
        if self._unfed:
            pass
        elif body is not None:
            self._parser.feed_data(body)  # there is no body callback, so this is cheaper than a new parser
        else:
            self._parser = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Parser and reader hold each other: let go."""
        del self._parser

    # --- parser callbacks ---

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def _read_more(self, data: bytes) -> tuple[Request, bytes] | None:
        """A head in pieces: parsed as it comes, so that what is malformed is refused at once."""
        partial = self._partial
        if partial is None:
            partial = self._partial = bytearray()
        before = len(partial)
        partial += data
        end = partial.find(b"\r\n\r\n", max(before - 3, 0)) + 4
        if end < 4:
            line_end = partial.find(b"\r\n")
            self._check_sizes(line_end, len(partial))
            self._parse(data)
            if line_end >= 0 and bytes(partial[line_end - 9 : line_end]) not in _VERSIONS:
                raise BadHead(400, "bad_request", _BAD_LINE)
            return None
        self._partial = None
        head = bytes(partial[:end])
        self._check_sizes(head.find(b"\r\n"), end)
        self._parse(head[before:])
        return self._request(head), data[end - before :]

    def _check_sizes(self, line_end: int, size: int) -> None:
        limits = self._limits
        if line_end > limits.request_line_bytes or (line_end < 0 and size > limits.request_line_bytes + 1):
            raise BadHead(414, "headers_too_large", f"The request line is over {limits.request_line_bytes} bytes.")
        if line_end >= 0 and size - line_end - 2 > limits.header_block_bytes:
            raise BadHead(431, "headers_too_large", f"The headers are over {limits.header_block_bytes} bytes.")

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._rejected(error)

    def _rejected(self, error: Exception) -> None:
        if not isinstance(error, httptools.HttpParserUpgrade):  # that one is judged when the headers are known
            raise BadHead(400, "bad_request", "The request is not valid HTTP/1.1.") from None

    def _request(self, head: bytes) -> Request:
        headers, target = self._headers, self._target
        method = self._parser.get_method()
        line_end = len(method) + len(target) + 10
        http_10 = False
        # The parser also takes HTTP/0.9, HTTP/2.0, RTSP, ICE and doubled blanks: the line is exactly this or refused.
        if not head.startswith(b" HTTP/1.1\r\n", line_end - 9):
            http_10 = head.startswith(b" HTTP/1.0\r\n", line_end - 9)
            if not http_10:
                raise BadHead(400, "bad_request", _BAD_LINE)
        if len(head) > self._limits.request_line_bytes:
            self._check_sizes(line_end, len(head))
        if len(headers) > self._limits.headers_max:
            raise BadHead(431, "headers_too_large", f"More than {self._limits.headers_max} headers.")
        if target[0] != _SLASH or _HASH in target:
            raise BadHead(400, "bad_request", "The request target must be a path.")
        self._headers, self._target, self._unfed = [], b"", False
        request = Request(self._body_reader, self.peer, self._started_ns)
        request.method, request.target, request.headers, request.http_10 = method, target, headers, http_10
        request.lower = lower = {name.lower(): value.rstrip() for name, value in reversed(headers)}
        if len(lower) != len(headers):
            request.repeated = _repeated(headers)
        request.path, _, request.query = target.partition(b"?")
        self._check_host(request)
        if b"content-length" in lower or b"transfer-encoding" in lower:
            _check_framing(request)
        if b"upgrade" in lower:
            self._check_upgrade(request)
        return request

    def _check_host(self, request: Request) -> None:
        host = request.lower.get(b"host")
        if host is None:
            if request.http_10:
                return
            raise BadHead(400, "bad_request", "The Host header is missing.")
        if host != self._host_seen:
            if _HOST.fullmatch(host) is None:
                raise BadHead(400, "bad_request", "The Host header is not valid.")
            self._host_seen = host
        if b"host" in request.repeated:
            raise BadHead(400, "bad_request", "The Host header was sent more than once.")

    def _check_upgrade(self, request: Request) -> None:
        if not names(request.lower.get(b"connection"), b"upgrade"):
            return
        # Clients offer h2c in passing and go on without it; whoever asks for anything else expects to be switched.
        if request.lower[b"upgrade"].lower() != b"h2c":
            raise BadHead(501, "not_supported", "Protocol upgrades are not supported.")
        self._parser = httptools.HttpRequestParser(self)


def _check_framing(request: Request) -> None:
    """How the body ends must be readable one way only. Sets `content_length`; None for a chunked body."""
    length, coding = request.lower.get(b"content-length"), request.lower.get(b"transfer-encoding")
    if coding is not None:
        if request.http_10 or length is not None or coding.lower() != b"chunked":
            raise BadHead(
                400, "bad_request", "The one transfer coding taken is chunked, on HTTP/1.1, without a length."
            )
        if b"transfer-encoding" in request.repeated:
            raise BadHead(400, "bad_request", "Transfer-Encoding was sent more than once.")
        request.content_length = None
    elif length is not None:
        if b"content-length" in request.repeated or not length.isdigit() or len(length) > 15:
            raise BadHead(400, "bad_request", "Content-Length is not one number.")
        request.content_length = int(length)


def _repeated(headers: Headers) -> set[bytes]:
    seen: set[bytes] = set()
    repeated: set[bytes] = set()
    for name, _ in headers:
        low = name.lower()
        (repeated if low in seen else seen).add(low)
    return repeated
