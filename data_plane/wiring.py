"""A worker put together: the only place that knows every part."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from data_plane import health, replies, sweeper
from data_plane.auth import Keys
from data_plane.exchange import Plane, serve
from data_plane.hold import Holds
from data_plane.http_message import Headers, Request, Responder
from data_plane.intake import trace_of
from data_plane.journal import Journal
from data_plane.ledger_clock import LedgerClock
from data_plane.policies import Policies
from data_plane.pricebook import PriceBook
from data_plane.router import Own, Route, resolve
from data_plane.server import Limits, Server
from data_plane.settings import Settings
from data_plane.timers import TimerWheel
from data_plane.upstream.base import Base
from data_plane.upstream.client import UpstreamPool
from data_plane.watch import Watch
from shared import ids
from shared.errors import Refusal, RequestRefusal
from shared.ledger.redis import SCRIPTS, RedisLedger
from shared.redis_wire import RedisClient, RedisConnection

_log = logging.getLogger("nullspend.worker")

Work = Callable[[], Coroutine[Any, Any, None]]

_RENEW_S: Final = 0.25
_SWEEPS_A_LEASE: Final = 4
_AGAIN_S: Final = 1.0
_FLUSH_S: Final = 5.0
_CLOCK_OFFSET_MAX_MS: Final = 2_000


class Worker:
    """One process of the data plane, from `start` to `stop`. Made inside its event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wheel = TimerWheel()
        self._metrics = health.Metrics()
        self._clock = LedgerClock()
        self._redis = RedisClient(settings.redis_url, timeout_s=settings.reserve_timeout_s, on_connect=(_load_scripts,))
        self._redis.on_connect(self._read_clock)
        self._ledger = RedisLedger(lambda parts: self._redis.execute(*parts))
        self._keys = Keys(self._redis, self._clock)
        self._policies = Policies(self._redis)
        self._prices = PriceBook(self._redis)
        self._journal = Journal(self._ledger)
        self._holds = Holds(
            redis=self._redis,
            ledger=self._ledger,
            policies=self._policies,
            prices=self._prices,
            journal=self._journal,
            clock=self._clock,
            settings=settings,
            metrics=self._metrics,
        )
        self._upstream = UpstreamPool(self._wheel)
        bases = {provider: Base.parse(url) for provider, url in settings.upstreams}
        self._plane = Plane(self._keys, self._prices, self._holds, self._upstream, bases, settings, self._clock)
        self._watch = Watch(self._redis, self._keys, self._policies, self._prices)
        limits = Limits()
        self._server = Server(self._answer, _protocol_refusal, wheel=self._wheel, limits=limits, on_error=_broke)
        self._tasks: list[asyncio.Task[Any]] = []
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = False

    @property
    def port(self) -> int:
        return self._server.port

    async def start(self) -> None:
        """Connects, loads what calls need, then listens."""
        self._wheel.start(asyncio.get_running_loop())
        await self._redis.connect()
        await self._prices.refresh()
        await self._watch.start()
        self._spawn(self._watch.run)
        self._spawn(partial(sweeper.run, self._ledger, self._keys.versions, self._settings.lease_s / _SWEEPS_A_LEASE))
        self._spawn(self._renew)
        await self._server.start(self._settings.host, self._settings.port)

    async def stop(self) -> None:
        """Drains: no new connections, calls finish, everything they owe reaches the ledger."""
        self._stopping = True
        await self._server.drain(self._settings.drain_s)
        await self._cut_calls()
        if not await self._journal.flushed(_FLUSH_S):
            _log.error("%d endings did not reach the ledger; their holds will lapse", self._journal.depth)
            self._journal.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._upstream.close()
        await self._redis.close()
        self._wheel.stop()

    async def _cut_calls(self) -> None:
        """Ends what outlived the drain, as a reply does that nobody waits for any more: it is charged its hold."""
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    def _spawn(self, work: Work) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(_kept_up(work)))

    async def _read_clock(self, connection: RedisConnection) -> None:
        """Windows and expiries follow the ledger's time from the first call on, and after a failover."""
        seconds, microseconds = await connection.execute("TIME")
        self._clock.saw(int(seconds) * 1000 + int(microseconds) // 1000)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(min(_RENEW_S, self._settings.lease_s / 12))
            self._holds.renew()

    async def _answer(self, request: Request, responder: Responder) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            route = resolve(request.method, request.path)
            if isinstance(route, Route):
                refusal = await serve(request, responder, route, self._plane)
                if refusal is not None:
                    self._metrics.refusals[refusal.code] += 1
                return
            self._own(route, request, responder)
        except Refusal as refusal:
            self._metrics.refusals[refusal.code] += 1
            replies.refuse(responder, refusal, call_id=ids.uuid7(), trace_id=trace_of(request))
        finally:
            self._calls.discard(task)

    def _own(self, route: Own, request: Request, responder: Responder) -> None:
        if route.name == "health":
            replies.send_json(responder, 200, health.HEALTH)
        elif route.name == "ready":
            ready = self._readiness()
            replies.send_json(responder, 200 if ready["status"] == "ok" else 503, ready)
        else:
            health.check_ops_secret(request.lower.get(b"x-ops-health-secret"), self._settings.ops_secret)
            body = self._metrics.render(self._settings.worker, self._gauges())
            responder.send(200, [(b"content-type", b"text/plain; version=0.0.4")], body)

    def _readiness(self) -> dict[str, Any]:
        redis, prices = self._redis.connected, self._prices.version is not None
        serving, enforcing = not self._stopping, redis and prices
        # Money is right whatever this host's clock says; whoever keeps hosts wants to know all the same.
        skewed = abs(self._clock.offset_ms) > _CLOCK_OFFSET_MAX_MS
        return {
            "status": "ok" if serving and enforcing and not skewed else "unavailable",
            "serving": serving,
            "enforcing": enforcing,
            "checks": {
                "redis": redis,
                "prices": self._prices.version,
                "clock_offset_ms": self._clock.offset_ms,
                "journal": self._journal.depth,
            },
        }

    def _gauges(self) -> dict[str, int]:
        return {
            "nullspend_connections": len(self._server.connections),
            "nullspend_calls_in_flight": self._server.in_flight,
            "nullspend_holds_live": self._holds.live,
            "nullspend_journal_depth": self._journal.depth,
            "nullspend_journal_retries": self._journal.retried,
            "nullspend_ledger_conflicts": self._journal.conflicts,
            "nullspend_redis_connected": int(self._redis.connected),
        }


async def _kept_up(work: Work) -> None:
    """What never ends begins again after a failure nobody foresaw: without it leases lapse and changes go unseen."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - whatever it was, the task is needed
            _log.exception("a task of the worker failed and begins again")
            await asyncio.sleep(_AGAIN_S)


async def _load_scripts(connection: RedisConnection) -> None:
    for script in SCRIPTS.values():
        await connection.execute("SCRIPT", "LOAD", script.source)


def _protocol_refusal(status: int, code: str, message: str, request: Request | None) -> tuple[Headers, bytes]:
    """The server's own refusals (bad framing, limits, time) in the envelope of all others."""
    del request
    call_id = ids.uuid7()
    headers = replies.identity_headers(call_id, "")
    headers += [(b"content-type", b"application/json"), (b"X-NullSpend-Error", code.encode())]
    if status < 500:
        headers.append((b"x-should-retry", b"false"))
    return headers, replies.render_refusal(RequestRefusal(status, code, message), call_id, None)


def _broke(error: Exception, request: Request) -> None:
    _log.error("a call failed inside the gateway: %s %s", request.method, request.path[:200], exc_info=error)
