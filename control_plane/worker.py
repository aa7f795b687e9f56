"""The background work: ingest, outbox, ledger upkeep. Every loop outlives outages and tries again, with back-off.

`python -m control_plane.worker` runs it alone; otherwise it shares the process of the app.
"""

import asyncio
import logging
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final, Self

from control_plane.kernel import idempotency, outbox
from control_plane.kernel.context import Context
from control_plane.kernel.db import DatabaseUnavailable
from control_plane.kernel.redis import RedisUnavailable
from control_plane.ledger.prices import PricePublisher
from control_plane.ledger.publish import Publisher
from control_plane.ledger.rebuild import Rebuilder
from control_plane.ledger.reconcile import reconcile
from control_plane.settings import Settings, SettingsError
from control_plane.spend.ingest import Ingest
from control_plane.spend.partitions import ensure_ahead
from control_plane.wiring import connected
from shared import redis_keys
from shared.ledger.sweep import sweep_shard

_log = logging.getLogger("nullspend.worker")

_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_INGEST_BLOCK_MS: Final = 500


@dataclass(slots=True)
class Loop:
    """One kind of work, repeated. `every_s` is the pause after a turn that succeeded."""

    name: str
    turn: Callable[[], Awaitable[object]]
    every_s: float
    last_ok: float | None = None
    failing: bool = False

    async def run(self) -> None:
        """Until cancelled."""
        backoff = _BACKOFF_FIRST_S
        while True:
            try:
                await self.turn()
            except (DatabaseUnavailable, RedisUnavailable) as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - a defect in one loop must not end the others; it is logged
                _log.exception("%s failed", self.name)
                self._failed(error)
            else:
                if self.failing:
                    _log.info("%s works again", self.name)
                self.last_ok, self.failing, backoff = time.monotonic(), False, _BACKOFF_FIRST_S
                await asyncio.sleep(self.every_s)
                continue
            await asyncio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311 - workers must not retry in step
            backoff = min(backoff * 2, _BACKOFF_MAX_S)

    def _failed(self, error: Exception) -> None:
        if not self.failing:
            _log.warning("%s is waiting: %s", self.name, error)
        self.failing = True


@dataclass(slots=True)
class Worker:
    """All loops of one process. Use as an async context manager."""

    context: Context
    loops: list[Loop] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        context, settings = self.context, self.context.settings
        ingest = Ingest(
            context.database,
            context.redis,
            consumer=settings.consumer,
            batch=settings.ingest_batch,
            keep_s=settings.stream_keep_s,
        )
        publisher = Publisher(context.database, context.redis, context.grants_of, timeout_s=settings.publish_timeout_s)
        rebuilder = Rebuilder(context.database, context.redis, context.ledger, context.grants_of)
        prices = PricePublisher(context.database, context.redis)
        self.loops = [
            Loop("ingest", lambda: ingest.step(block_ms=_INGEST_BLOCK_MS), 0.0),
            Loop("publishing", publisher.publish_due, 0.25),
            Loop("prices", prices.ensure, 2.0),
            Loop("rebuilding", rebuilder.rebuild, 0.5),
            Loop("sweeping", self._sweep, settings.sweep_every_s),
            Loop("reconciling", lambda: reconcile(context), 60.0),
            Loop("housekeeping", self._tidy, 3600.0),
        ]

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(loop.run(), name=loop.name) for loop in self.loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failing(self) -> list[str]:
        return [loop.name for loop in self.loops if loop.failing]

    async def _sweep(self) -> None:
        for shard in range(redis_keys.SHARDS):
            await sweep_shard(self.context.ledger, shard)

    async def _tidy(self) -> None:
        async with self.context.database.transaction() as session:
            await ensure_ahead(session)
            await idempotency.prune(session)
            await outbox.prune(session)


async def run(settings: Settings) -> None:
    """The worker alone, until SIGTERM or SIGINT."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        context = await stack.enter_async_context(connected(settings))
        await stack.enter_async_context(Worker(context))
        await stop.wait()


def main() -> None:
    try:
        settings = Settings.read()
    except SettingsError as error:
        sys.exit(f"nullspend control plane:\n{error}")
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
