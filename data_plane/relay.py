"""The reply's way back: bytes to the client as they come, a copy to the meter, and how it ended as a value.

Streams run in callbacks, one write for each read; a client that reads slowly pauses the provider.
"""

import logging
import time
import zlib
from dataclasses import dataclass
from typing import Final, Protocol

from data_plane.call import Call
from data_plane.http_message import Headers, Request, Responder
from data_plane.providers.dialect import Reading, StreamMeter
from data_plane.upstream.client import UpstreamFailure, UpstreamResponse

_log = logging.getLogger("nullspend.relay")

READ_WHOLE_MAX: Final = 256 * 1024
_METERED_BYTES_MAX: Final = 32 * 1024 * 1024
_NOT_FOR_CLIENTS: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"set-cookie",
        b"alt-svc",
        b"strict-transport-security",
    }
)
_NOT_FOR_CLIENTS_PREFIXES: Final = (b"x-nullspend-", b"proxy-")


@dataclass(slots=True)
class Ended:
    """How a reply ended. `failure` is the provider's doing, `client_gone` the caller's."""

    status: int
    reading: Reading
    failure: UpstreamFailure | None = None
    client_gone: bool = False
    first_byte_ns: int = 0
    last_byte_ns: int = 0


class Decoder(Protocol):
    def feed(self, data: bytes) -> bytes: ...


def client_headers(response: UpstreamResponse) -> Headers:
    """The provider's headers less hop-by-hop ones and what could forge ours."""
    named = {name.strip().lower() for name in response.lower.get(b"connection", b"").split(b",")}
    return [
        (name, value)
        for name, value in response.headers
        if (low := name.lower()) not in _NOT_FOR_CLIENTS
        and low not in named
        and not low.startswith(_NOT_FOR_CLIENTS_PREFIXES)
    ]


async def relay(call: Call, response: UpstreamResponse, request: Request, responder: Responder, own: Headers) -> Ended:
    """Passes the reply on and meters it. `own` are our headers. Never raises for what provider or client do."""
    if _is_stream(call, response):
        return await _relay_stream(call, response, request, responder, own)
    return await _relay_whole(call, response, request, responder, own)


def _is_stream(call: Call, response: UpstreamResponse) -> bool:
    if not call.facts.stream or response.status >= 300:
        return False
    return b"event-stream" in response.lower.get(b"content-type", b"") or call.dialect.name == "gemini"


async def _relay_whole(
    call: Call, response: UpstreamResponse, request: Request, responder: Responder, own: Headers
) -> Ended:
    """A reply with one body. The caller may leave: the provider bills it anyway, so it is read to its end."""
    sink = _WholeSink(call, response, responder, client_headers(response) + own)
    whole = response.whole
    if whole is not None:
        responder.send(response.status, sink.headers, whole)
        sink.body = whole
    else:
        # A client that reads slowly pauses the provider; once it left, nobody else would let it go on.
        request.on_disconnect(response.resume)
        await response.pipe(sink)
        request.on_disconnect(None)
    return Ended(
        response.status,
        sink.reading(),
        failure=sink.failure,
        client_gone=responder.gone,
        first_byte_ns=sink.first_byte_ns,
        last_byte_ns=time.perf_counter_ns(),
    )


class _WholeSink:
    """A short body is kept and leaves in one write with its headers; a long one leaves, and is metered, as it comes."""

    __slots__ = (
        "_call",
        "_chunks",
        "_decoder",
        "_length",
        "_meter",
        "_response",
        "_size",
        "body",
        "failure",
        "first_byte_ns",
        "headers",
        "responder",
    )

    def __init__(self, call: Call, response: UpstreamResponse, responder: Responder, headers: Headers) -> None:
        self._call = call
        self._response = response
        self.headers = headers
        self.responder = responder
        length = response.lower.get(b"content-length", b"")
        self._length = int(length) if length.isdigit() else None
        self._size = 0
        self._chunks: list[bytes] = []
        self._decoder = decoder_of(response)
        self._meter: StreamMeter | None = None
        self.body = b""
        """What there is of a short one, once it ended."""
        self.failure: UpstreamFailure | None = None
        self.first_byte_ns = time.perf_counter_ns()

    def data(self, data: bytes) -> None:
        if self._meter is not None:
            self.responder.write(data)
            self._meter.feed(self._decoded(data))
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._size > READ_WHOLE_MAX:
            self._start(self._taken())

    def complete(self) -> None:
        if self._meter is not None:
            self.responder.end()
        else:
            self.body = self._taken()
            self.responder.send(self._response.status, self.headers, self.body)

    def failed(self, failure: UpstreamFailure) -> None:
        self.failure = failure
        if self._meter is not None:
            self.responder.abort()
        else:
            self.body = self._taken()

    def reading(self) -> Reading:
        """Called once, when the body is over."""
        if self._meter is not None:
            return self._meter.finish()[1]
        return self._call.dialect.read_json(self._decoded(self.body), self._call.facts)

    def _start(self, begun: bytes) -> None:
        responder, response = self.responder, self._response
        responder.start(response.status, self.headers, length=self._length)
        responder.on_writable(response.pause, response.resume)
        self._meter = self._call.dialect.meter(self._call.facts)
        responder.write(begun)
        self._meter.feed(self._decoded(begun))

    def _decoded(self, data: bytes) -> bytes:
        return data if self._decoder is None else self._decoder.feed(data)

    def _taken(self) -> bytes:
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken


async def _relay_stream(
    call: Call, response: UpstreamResponse, request: Request, responder: Responder, own: Headers
) -> Ended:
    """A stream: the client's leaving closes the provider's side too, and what was seen is what is charged."""
    sink = _StreamSink(call, response, responder)
    headers = client_headers(response) + own
    if b"cache-control" not in response.lower:
        headers.append((b"cache-control", b"no-cache, no-transform"))
    if b"x-accel-buffering" not in response.lower:
        headers.append((b"x-accel-buffering", b"no"))
    responder.start(response.status, headers, length=None)
    responder.on_writable(response.pause, response.resume)

    def client_left() -> None:
        sink.client_gone = True
        response.abort()

    request.on_disconnect(client_left)
    await response.pipe(sink)
    request.on_disconnect(None)
    return sink.ended()


class _StreamSink:
    """Writes what the meter lets through and remembers how the stream ended."""

    __slots__ = (
        "_broken",
        "_decoder",
        "_meter",
        "_responder",
        "_response",
        "client_gone",
        "failure",
        "first_byte_ns",
        "last_byte_ns",
        "reading",
    )

    def __init__(self, call: Call, response: UpstreamResponse, responder: Responder) -> None:
        self._decoder = decoder_of(response)
        # What was restored must be what is sent: a compressed copy can only be read.
        self._meter: StreamMeter = call.dialect.meter(
            call.facts, restore=call.modified is not None and self._decoder is None
        )
        self._response = response
        self._responder = responder
        self._broken = False
        self.client_gone = False
        self.failure: UpstreamFailure | None = None
        self.first_byte_ns = self.last_byte_ns = time.perf_counter_ns()
        self.reading: Reading | None = None

    def data(self, data: bytes) -> None:
        out = data
        if not self._broken:
            try:
                if self._decoder is None:
                    out = self._meter.feed(data)
                else:
                    self._meter.feed(self._decoder.feed(data))
            except Exception:  # noqa: BLE001 - the caller's stream goes on whatever the meter thinks; the hold is charged
                _log.exception("the meter failed; the stream is passed on unmetered")
                self._broken = True
        if out:
            self._responder.write(out)

    def complete(self) -> None:
        self.last_byte_ns = time.perf_counter_ns()
        self._responder.write(self._finish())
        self._responder.end()

    def failed(self, failure: UpstreamFailure) -> None:
        self.last_byte_ns = time.perf_counter_ns()
        self._finish()
        if self.client_gone:
            return
        self.failure = failure
        code = "upstream_timeout" if failure.timeout else "upstream_interrupted"
        told = b""
        if self._decoder is None and not self._broken:
            told = self._meter.in_band(code, f"The provider's stream ended early. [{code}]")
        if told:
            self._responder.write(told)
            self._responder.end()
        else:  # nothing can be said: the client must at least see that the reply is incomplete
            self._responder.abort()

    def ended(self) -> Ended:
        """Called when the pipe is over. An aborted reply told the sink nothing: it is finished here."""
        if self.reading is None:
            self.last_byte_ns = time.perf_counter_ns()
            self._finish()
        assert self.reading is not None
        return Ended(
            self._response.status,
            self.reading,
            failure=self.failure,
            client_gone=self.client_gone,
            first_byte_ns=self.first_byte_ns,
            last_byte_ns=self.last_byte_ns,
        )

    def _finish(self) -> bytes:
        """What was held back. A broken meter leaves a reading of nothing, which costs the hold."""
        if not self._broken:
            try:
                held_back, self.reading = self._meter.finish()
                return held_back
            except Exception:  # noqa: BLE001 - as above
                _log.exception("the meter failed at the end of a stream")
                self._broken = True
        self.reading = Reading(flags=["unparsable"])
        return b""


class Inflater:
    """Decodes gzip or deflate as it comes, for the meter's copy. Damage ends the reading, not the stream."""

    __slots__ = ("_inflate",)

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def feed(self, data: bytes) -> bytes:
        try:
            return self._inflate.decompress(data, _METERED_BYTES_MAX)
        except zlib.error:
            return b""


class Opaque:
    """Stands in for a coding we did not accept and cannot read: nothing of it is metered."""

    def feed(self, data: bytes) -> bytes:  # noqa: ARG002 - the interface of a decoder
        return b""


def decoder_of(response: UpstreamResponse) -> Decoder | None:
    coding = response.lower.get(b"content-encoding", b"identity").strip().lower()
    if coding in {b"", b"identity"}:
        return None
    return Inflater() if coding in {b"gzip", b"x-gzip", b"deflate"} else Opaque()
