"""A client made of bytes: it sends what it is given and tells apart a reply that ended from one that was cut."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self, cast

Headers = list[tuple[bytes, bytes]]
Named = Sequence[tuple[str, str]]

TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Reply:
    status: int
    headers: Headers
    body: bytes = b""
    complete: bool = False
    """The framing said that the body ended."""

    def header(self, name: str) -> str | None:
        """The first of that name."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    def names(self) -> set[str]:
        return {name.decode().lower() for name, _ in self.headers}

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json()["error"]
        return error


def request(
    path: str, body: bytes = b"", headers: Named = (), *, method: str = "POST", chunked: Sequence[bytes] | None = None
) -> bytes:
    """A request as bytes. Header values are latin-1, so that any byte can be sent."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", *(f"{name}: {value}" for name, value in headers)]
    if chunked is not None:
        lines.append("Transfer-Encoding: chunked")
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chunked) + b"0\r\n\r\n"
    elif body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Caller:
    """One connection. Use as `async with await Caller.connect(port) as caller`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 26))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Close the connection, whatever is in flight."""
        self.writer.transport.abort()
        with suppress(OSError):
            await self.writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def read_on(self) -> None:
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.Transport:
        return cast("asyncio.Transport", self.writer.transport)

    async def reply(self) -> Reply:
        async with asyncio.timeout(TIMEOUT_S):
            reply = await self.head()
            await self.body_of(reply)
        return reply

    async def head(self) -> Reply:
        """The head of the next final reply. Raises IncompleteReadError when the connection ended before it."""
        while True:
            async with asyncio.timeout(TIMEOUT_S):
                raw = await self.reader.readuntil(b"\r\n\r\n")
            line, *lines = raw[:-4].split(b"\r\n")
            status = int(line.split(b" ")[1])
            if status != 100:
                return Reply(status, [(name, value) for name, _, value in (row.partition(b": ") for row in lines)])

    async def body_of(self, reply: Reply) -> None:
        """Reads the body of a reply to its end, or to where it was cut."""
        try:
            if reply.header("transfer-encoding") == "chunked":
                while piece := await self.chunk():
                    reply.body += piece
                reply.complete = True
            elif (length := reply.header("content-length")) is not None:
                reply.body = await self.reader.readexactly(int(length))
                reply.complete = True
            elif reply.status in {204, 304}:
                reply.complete = True
            else:
                reply.body = await self.reader.read()
        except asyncio.IncompleteReadError as error:
            reply.body += error.partial
        except ConnectionResetError:
            pass

    async def chunk(self) -> bytes:
        """One chunk of a chunked body, empty at its end."""
        async with asyncio.timeout(TIMEOUT_S):
            size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def chunks_until(self, text: bytes) -> bytes:
        """Chunks of a stream until it contained `text`."""
        seen = b""
        while text not in seen:
            piece = await self.chunk()
            assert piece, f"the stream ended without {text!r}: {seen!r}"
            seen += piece
        return seen

    async def gone(self) -> None:
        """Waits for the other side to close the connection."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                while await self.reader.read(65_536):
                    pass
            except ConnectionResetError:
                pass


async def call(port: int, raw: bytes) -> Reply:
    """One request on a connection of its own."""
    async with await Caller.connect(port) as caller:
        caller.send(raw)
        return await caller.reply()
