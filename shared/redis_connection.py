"""One connection to Redis (RESP2): commands of concurrent callers leave in one write, replies come back in order.

It is used until it breaks; then every command in flight fails, and nothing is repeated.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import hiredis

from shared.redis_url import RedisAddress

Part = bytes | str | int | float
"""Of a command."""

# The stub of hiredis allows one part only.
_pack: Final = cast("Callable[[tuple[Part, ...]], bytes]", hiredis.pack_command)
_NOTHING: Final = object()
_WATCH_STEPS: Final = 4


class RedisReplyError(Exception):
    """Redis answered with an error: `NOSCRIPT`, `WRONGTYPE`, `ERR` …"""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code, _, self.message = text.partition(" ")


class RedisDown(Exception):
    """There is no connection, or it broke: whether commands in flight were executed is not known."""


def encode_command(*parts: Part) -> bytes:
    """Strings as UTF-8, numbers in decimal. In C, and quicker than joining prepared prefixes."""
    return _pack(parts)


class RedisConnection(asyncio.Protocol):
    """One socket, used until it breaks. `on_lost` is called once, with the reason."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, timeout_s: float | None, on_lost: Callable[[RedisDown], None]
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._on_lost = on_lost
        self._reader = hiredis.Reader(replyError=RedisReplyError, notEnoughData=_NOTHING)
        self._pending: deque[asyncio.Future[Any] | None] = deque()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._watched: object = None
        self._watched_steps = 0
        self._lost = False
        self.replies = 0
        self.errors_unheard = 0
        """Error replies to commands nobody waits for."""

    # --- commands ---

    def execute(self, *parts: Part) -> "asyncio.Future[Any]":
        """The reply. Raises RedisReplyError or RedisDown when awaited."""
        future = self._loop.create_future()
        if self._lost:
            return failed(future, RedisDown("the connection to Redis is closed"))
        self._write(_pack(parts))
        self._pending.append(future)
        if self._watch is None and self._timeout_s is not None:
            self._start_watch()
        return future

    def post(self, *parts: Part) -> None:
        """Send a command whose reply nobody needs. Raises RedisDown."""
        if self._lost:
            raise RedisDown("the connection to Redis is closed")
        self._write(_pack(parts))
        self._pending.append(None)
        if self._watch is None and self._timeout_s is not None:
            self._start_watch()

    def received(self, reply: Any) -> None:
        """One reply, for the command at the head of the line."""
        future = self._pending.popleft()
        self.replies += 1
        failed_reply = type(reply) is RedisReplyError
        if failed_reply and reply.code == "READONLY":
            # After a failover the old primary refuses writes for ever: only a new connection finds the new one.
            self._loop.call_soon(self._break, "Redis is a read-only replica")
        if future is None:
            self.errors_unheard += failed_reply
        elif future.done():  # its caller gave up
            pass
        elif failed_reply:
            future.set_exception(reply)
        else:
            future.set_result(reply)

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def close(self, reason: str = "closed") -> None:
        self._break(reason)

    def _write(self, command: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(command)

    def _flush(self) -> None:
        if self._transport is not None and not self._lost:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    # --- transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        reader, received = self._reader, self.received
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING:
                received(reply)
        except (hiredis.ProtocolError, IndexError) as error:
            self._break(f"Redis broke its protocol: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(f"the connection to Redis was lost: {exc}" if exc else "Redis closed the connection")

    # --- endings ---

    def _break(self, reason: str) -> None:
        if self._lost:
            return
        self._lost = True
        down = RedisDown(reason)
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()
        pending, self._pending = self._pending, deque()
        for future in pending:
            if future is not None and not future.done():
                failed(future, RedisDown(reason))
        self._on_lost(down)

    # --- time: one timer, for the command at the head of the line ---

    def _start_watch(self) -> None:
        assert self._timeout_s is not None
        self._watched, self._watched_steps = self.replies, 0
        self._watch = self._loop.call_later(self._timeout_s / _WATCH_STEPS, self._look)

    def _look(self) -> None:
        self._watch = None
        if not self._pending or self._timeout_s is None:
            return
        if self._watched != self.replies:
            self._start_watch()
            return
        self._watched_steps += 1
        if self._watched_steps >= _WATCH_STEPS:
            self._break(f"Redis did not answer within {self._timeout_s:g} s")
        else:
            self._watch = self._loop.call_later(self._timeout_s / _WATCH_STEPS, self._look)


def failed(future: "asyncio.Future[Any]", error: Exception) -> "asyncio.Future[Any]":
    future.set_exception(error)
    future.exception()  # a caller that went away is no reason for a warning
    return future


Connection = TypeVar("Connection", bound=RedisConnection)


async def open_connection(
    address: RedisAddress, protocol: Callable[[], Connection], connect_timeout_s: float
) -> Connection:
    """A connection that is authenticated and on its database. Raises RedisDown, or RedisReplyError from AUTH/SELECT."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(connect_timeout_s):
            if address.path:
                _, connection = await loop.create_unix_connection(protocol, address.path)
            else:
                tls = address.ssl_context()
                _, connection = await loop.create_connection(
                    protocol, address.host, address.port, ssl=tls, server_hostname=address.host if tls else None
                )
            try:
                await _greet(connection, address)
            except BaseException:
                connection.close()
                raise
    except (OSError, TimeoutError) as error:
        raise RedisDown(f"Redis at {address.name} is not reachable: {error or 'timeout'}") from error
    return connection


async def _greet(connection: RedisConnection, address: RedisAddress) -> None:
    if address.password is not None:
        credentials = [address.username, address.password] if address.username else [address.password]
        await connection.execute("AUTH", *credentials)
    if address.database:
        await connection.execute("SELECT", address.database)
