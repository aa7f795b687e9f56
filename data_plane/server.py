"""Listens, counts connections, runs the application once per request, and drains at shutdown."""

import asyncio
import socket
import ssl as tls
from collections.abc import Awaitable, Callable
from typing import Final

from data_plane.http_message import ClientGone, Headers, Request, Responder
from data_plane.server_connection import ServerConnection
from data_plane.server_limits import Limits
from data_plane.timers import TimerWheel
from shared.errors import Refusal

Application = Callable[[Request, Responder], Awaitable[None]]
Refuse = Callable[[int, str, str, Request | None], tuple[Headers, bytes]]
OnError = Callable[[Exception, Request], None]

_BACKLOG: Final = 4096
_SETTLE_S: Final = 5.0
"""After the last connection was cut: time for its call to be accounted for."""

__all__ = ["Application", "Limits", "Refuse", "Server"]


class Server:
    """`refuse` renders what never reaches the application: 400, 408, 414, 431, 501, 503, and 500 for its failures."""

    def __init__(
        self,
        application: Application,
        refuse: Refuse,
        *,
        wheel: TimerWheel,
        limits: Limits | None = None,
        on_error: OnError | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.wheel = wheel
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self.held_bytes = 0
        self.connections: set[ServerConnection] = set()
        self.in_flight = 0
        """Calls of the application that have not returned; a reply may be finished before its call is."""
        self.requests_total = 0
        self._application = application
        self._refuse = refuse
        self._on_error = on_error
        self._per_peer: dict[str, int] = {}
        self._listener: asyncio.Server | None = None
        self.port = 0
        """Where it listens, once started."""

    async def start(self, host: str, port: int, *, reuse_port: bool = True, ssl: tls.SSLContext | None = None) -> None:
        self._listener = await self.loop.create_server(
            lambda: ServerConnection(self),
            host,
            port,
            reuse_port=reuse_port,
            backlog=_BACKLOG,
            ssl=ssl,
            ssl_handshake_timeout=self.limits.head_timeout_s if ssl else None,
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        for sock in self._listener.sockets:
            # Inherited by what is accepted: a client that vanished without a word is noticed within minutes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def stop_accepting(self) -> None:
        """No new connections; idle ones close, busy ones close after their reply."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.shut_when_idle()

    async def drain(self, timeout_s: float) -> None:
        """Wait for the calls in flight; after `timeout_s` their connections are cut and their ends awaited."""
        self.stop_accepting()
        if not await self._settled(timeout_s):
            for connection in list(self.connections):
                connection.transport.abort()
            await self._settled(_SETTLE_S)
        for connection in list(self.connections):
            connection.transport.abort()

    async def _settled(self, timeout_s: float) -> bool:
        deadline = self.loop.time() + timeout_s
        while self.in_flight or self.connections:
            left = deadline - self.loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, 0.02))
        return True

    # --- called by connections ---

    def opened(self, connection: ServerConnection) -> bool:
        peers = self._per_peer
        self.connections.add(connection)
        peers[connection.peer] = of_peer = peers.get(connection.peer, 0) + 1
        if len(self.connections) > self.limits.connections_max or self.draining:
            connection.transport.abort()
            return False
        if of_peer > self.limits.connections_per_peer:
            connection.refuse(503, "overloaded", "Too many connections from this address.")
            return False
        return True

    def closed(self, connection: ServerConnection) -> None:
        self.connections.discard(connection)
        left = self._per_peer.get(connection.peer, 0) - 1
        if left > 0:
            self._per_peer[connection.peer] = left
        else:
            self._per_peer.pop(connection.peer, None)

    def refusal(self, status: int, code: str, message: str) -> tuple[Headers, bytes]:
        return self._refuse(status, code, message, None)

    async def answer(self, request: Request, responder: Responder) -> None:
        """Run the application; whatever it does, the request ends answered or cut."""
        self.in_flight += 1
        self.requests_total += 1
        try:
            await self._application(request, responder)
            if not responder.finished:
                self._give_up(request, responder)
        except ClientGone:
            pass
        except Refusal as refusal:
            self._reply(request, responder, refusal)
        except Exception as error:  # noqa: BLE001 - one broken call must not take the worker with it
            self._give_up(request, responder)
            if self._on_error is not None:
                self._on_error(error, request)
        finally:
            responder.abort()  # no effect on a finished reply
            self.in_flight -= 1
            if request.held_bytes:
                self.held_bytes -= request.held_bytes
                request.drop_body()

    def _reply(self, request: Request, responder: Responder, refusal: Refusal) -> None:
        if responder.started or responder.gone:
            responder.abort()
            return
        if refusal.close:
            responder.keep_alive = False
        headers, body = self._refuse(refusal.status, refusal.code, refusal.message, request)
        responder.send(refusal.status, headers, body)

    def _give_up(self, request: Request, responder: Responder) -> None:
        if responder.started or responder.gone:
            responder.abort()
            return
        headers, body = self._refuse(500, "internal_error", "The gateway failed to answer this request.", request)
        responder.send(500, headers, body)
