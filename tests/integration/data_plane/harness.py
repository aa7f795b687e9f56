"""A data plane in this process between a client and a provider that are both made of bytes."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from control_plane.prices.book import CompiledBook
from data_plane.settings import Settings
from data_plane.wiring import Worker
from shared import redis_keys
from shared.redis_wire import RedisClient
from tests.integration.data_plane import caller
from tests.integration.data_plane.caller import Caller, Named, Reply
from tests.integration.data_plane.surfaces import OPENAI, SURFACES, Surface
from tests.integration.data_plane.tenant import Key, Tenant
from tests.integration.data_plane.upstream import Received, Upstream, Wire, stream, whole

OPS_SECRET: Final = "operations"
PATIENCE_S: Final = 10.0


async def publish_prices(redis: RedisClient, book: CompiledBook) -> None:
    await redis.execute("SET", redis_keys.prices(book.version), book.payload)
    await redis.execute("SET", redis_keys.PRICES_CURRENT, book.version)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RedisClient]:
    redis = RedisClient(url, timeout_s=5.0)
    await redis.connect()
    try:
        yield redis
    finally:
        await redis.close()


@asynccontextmanager
async def working(redis_url: str, upstream_url: str, **settings: Any) -> AsyncIterator[Worker]:
    """A worker from start to stop."""
    bases = tuple((provider, upstream_url) for provider in ("openai", "anthropic", "google"))
    wanted = {"upstreams": bases, "drain_s": 2.0, "ops_secret": OPS_SECRET, "reserve_timeout_s": 2.0, **settings}
    worker = Worker(Settings(redis_url=redis_url, port=0, **wanted))
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


@dataclass(slots=True)
class Plane:
    """A worker with one organisation, a key of it, and the provider behind it."""

    worker: Worker
    tenant: Tenant
    key: Key
    upstream: Upstream
    redis_url: str

    @property
    def redis(self) -> RedisClient:
        return self.tenant.redis

    def request(
        self,
        surface: Surface = OPENAI,
        *,
        stream: bool = False,
        key: Key | None = None,
        headers: Named = (),
        body: bytes | None = None,
        target: str | None = None,
        **fields: Any,
    ) -> bytes:
        """A call as bytes, with the tenant's key unless another is given."""
        if body is None:
            body = surface.body(stream=stream, **fields)
        own = [surface.credential, ("X-NullSpend-Key", (key or self.key).secret), ("Content-Type", "application/json")]
        return caller.request(target or surface.target(stream=stream), body, [*own, *headers])

    async def call(self, surface: Surface = OPENAI, **options: Any) -> Reply:
        """One call on a connection of its own; options as of `request`."""
        return await self.send(self.request(surface, **options))

    async def send(self, raw: bytes) -> Reply:
        return await caller.call(self.worker.port, raw)

    async def connect(self) -> Caller:
        return await Caller.connect(self.worker.port)


async def until(condition: Callable[[], object]) -> None:
    """Waits for what others do in their own time. A condition that asks somebody is a coroutine function."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(0.001)


async def answer_as_asked(request: Received, wire: Wire) -> None:
    """The provider's default: the surface is known by the path, the stream by path or body."""
    path = request.line.split(b" ")[1].decode()
    route = path.replace("?", ":").split(":")[0]
    surface = next(s for s in SURFACES if route == s.path.split(":")[0])
    streams = b":stream" in request.line or b'"stream":true' in request.body
    await (stream(surface.pieces) if streams else whole(surface.reply))(request, wire)
