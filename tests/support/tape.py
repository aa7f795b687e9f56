"""A recording transport for the official clients: the bytes of every attempt they make, as they were on the wire."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx2


@dataclass(slots=True)
class Take:
    """One attempt."""

    request: httpx2.Request
    status: int
    headers: httpx2.Headers
    body: bytearray = field(default_factory=bytearray)
    """As received: it grows while a stream is read."""


class Tape(httpx2.BaseTransport):
    """For clients that block. `body` replaces what the client would send, to make it send what it never would."""

    def __init__(self, *, body: bytes | None = None) -> None:
        self.takes: list[Take] = []
        self._body = body
        self._inner = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request = _with(request, self._body)
        reply = self._inner.handle_request(request)
        take = Take(request, reply.status_code, reply.headers)
        self.takes.append(take)
        assert isinstance(reply.stream, httpx2.SyncByteStream)
        reply.stream = _Tee(reply.stream, take)
        return reply

    def close(self) -> None:
        self._inner.close()


class AsyncTape(httpx2.AsyncBaseTransport):
    """The same for clients that await."""

    def __init__(self) -> None:
        self.takes: list[Take] = []
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        reply = await self._inner.handle_async_request(request)
        take = Take(request, reply.status_code, reply.headers)
        self.takes.append(take)
        assert isinstance(reply.stream, httpx2.AsyncByteStream)
        reply.stream = _AsyncTee(reply.stream, take)
        return reply

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Tee(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, take: Take) -> None:
        self._stream = stream
        self._take = take

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            self._take.body += part
            yield part

    def close(self) -> None:
        self._stream.close()


class _AsyncTee(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, take: Take) -> None:
        self._stream = stream
        self._take = take

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._take.body += part
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _with(request: httpx2.Request, body: bytes | None) -> httpx2.Request:
    if body is None:
        return request
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "content-length"]
    return httpx2.Request(request.method, request.url, headers=headers, content=body, extensions=request.extensions)
