"""Keep-alive connections to providers: taken youngest first, opened when there is none, closed when idle too long."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from data_plane.timers import TimerWheel
from data_plane.upstream.base import Base
from data_plane.upstream.connection import UpstreamConnection
from data_plane.upstream.failures import Phase, Timeouts, UpstreamFailure
from data_plane.upstream.resolver import Address, Resolver

IDLE_S: Final = 50.0
"""Shorter than the idle time of any provider's load balancer we know of (60 s)."""
IDLE_MAX: Final = 512
_ADDRESSES_TRIED: Final = 3
_FIRST_TRY_SHARE: Final = 0.3
"""Of the time for connecting: what one address may take when there are others."""


class Origin:
    """The connections to one scheme, host and port."""

    __slots__ = ("_base", "_idle", "_loop", "_opening", "_pool", "connections", "wheel")

    def __init__(self, pool: "ConnectionPool", base: Base) -> None:
        self._pool = pool
        self._base = base
        self._loop = pool.loop
        self.wheel = pool.wheel
        self.connections: set[UpstreamConnection] = set()
        self._idle: dict[UpstreamConnection, None] = {}
        self._opening = 0

    def take(self) -> UpstreamConnection | None:
        """A pooled connection that is not known to be dead; the youngest is the likeliest to be alive."""
        idle = self._idle
        while idle:
            connection, _ = idle.popitem()
            if connection.usable:
                return connection
        return None

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    def close_idle(self) -> None:
        for connection in list(self._idle):
            connection.abort()

    async def open(self, timeouts: Timeouts) -> UpstreamConnection:
        """A new connection. Raises UpstreamFailure (dns, connect, tls), with no byte of the request written."""
        base, stage = self._base, _Stage()
        self._opening += 1
        try:
            async with asyncio.timeout(timeouts.connect_s):
                return await self._open(stage, timeouts.connect_s)
        except TimeoutError as error:
            self._pool.resolver.forget(base.host, base.port)
            message = f"{base.host}:{base.port} was not reached within {timeouts.connect_s:g} s"
            raise UpstreamFailure(stage.phase, message, timeout=True) from error
        finally:
            self._opening -= 1
            self._forget_if_empty()

    async def _open(self, stage: "_Stage", connect_s: float) -> UpstreamConnection:
        base = self._base
        addresses = await self._pool.resolver.resolve(base.host, base.port)
        *others, last = addresses[:_ADDRESSES_TRIED]
        for address in others:
            try:
                async with asyncio.timeout(connect_s * _FIRST_TRY_SHARE):
                    return await self._connect(address, stage)
            except (UpstreamFailure, TimeoutError):
                continue  # the next address may answer: a name often has one of each family
        try:
            return await self._connect(last, stage)
        except UpstreamFailure:
            self._pool.resolver.forget(base.host, base.port)
            raise

    async def _connect(self, address: Address, stage: "_Stage") -> UpstreamConnection:
        base, loop = self._base, self._loop
        try:
            stage.phase = "connect"
            sock = await self._connect_socket(address)
            stage.phase = "tls" if base.tls else "connect"
            # Connected to the checked address; the certificate is still that of the name.
            _, connection = await loop.create_connection(
                lambda: UpstreamConnection(self, loop),
                sock=sock,
                ssl=self._pool.ssl_context if base.tls else None,
                server_hostname=base.host if base.tls else None,
            )
        except OSError as error:  # TLS errors are among them
            what = "the TLS handshake with" if stage.phase == "tls" else "the connection to"
            raise UpstreamFailure(stage.phase, f"{what} {base.host}:{base.port} failed: {error}") from error
        self.connections.add(connection)
        return connection

    async def _connect_socket(self, address: Address) -> socket.socket:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            await self._loop.sock_connect(sock, address.sockaddr)
        except BaseException:
            sock.close()
            raise
        return sock

    # --- called by connections ---

    def freed(self, connection: UpstreamConnection) -> None:
        if self._pool.closed or len(self._idle) >= self._pool.idle_max:
            connection.abort()
        else:
            self._idle[connection] = None
            hint_s, idle_s = connection.idle_hint_s, self._pool.idle_s
            connection.keep(idle_s if idle_s < hint_s else hint_s)  # noqa: FURB136 - as quick as can be: for every call

    def lost(self, connection: UpstreamConnection) -> None:
        self._idle.pop(connection, None)
        self.connections.discard(connection)
        self._forget_if_empty()

    def _forget_if_empty(self) -> None:
        """Callers may name bases of their own: what has no connection is not remembered."""
        if not self.connections and not self._opening:
            self._pool.origins.pop(self._base.origin, None)


class _Stage:
    """How far the opening of a connection came, for the message of a timeout."""

    __slots__ = ("phase",)

    def __init__(self) -> None:
        self.phase: Phase = "dns"


class ConnectionPool:
    def __init__(
        self,
        wheel: TimerWheel,
        *,
        allow: Callable[[str], bool] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        idle_s: float = IDLE_S,
        idle_max: int = IDLE_MAX,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.wheel = wheel
        self.resolver = Resolver(wheel, allow=allow)
        self._ssl_context = ssl_context
        self.idle_s = idle_s
        self.idle_max = idle_max
        self.closed = False
        self.origins: dict[str, Origin] = {}

    @property
    def ssl_context(self) -> ssl.SSLContext:
        if self._ssl_context is None:  # loading the certificates of the system takes a while: not for http:// only
            self._ssl_context = _default_tls()
        return self._ssl_context

    def origin(self, base: Base) -> Origin:
        origin = self.origins.get(base.origin)
        if origin is None:
            origin = self.origins[base.origin] = Origin(self, base)
        return origin

    def close(self) -> None:
        """Close what is idle now, and what is busy after its reply."""
        self.closed = True
        for origin in list(self.origins.values()):
            origin.close_idle()


def _default_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
