"""Charges holds whose worker died: their lease is over, so the hold is booked as the call's cost, flagged `lapsed`.

Every worker and the control plane sweep. The ledger checks the lease again, so it does not matter who comes first.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable

from shared.ledger.redis import RedisLedger
from shared.ledger.sweep import sweep
from shared.redis_wire import RedisDown, RedisReplyError


async def run(ledger: RedisLedger, organisations: Callable[[], Iterable[str]], every_s: float) -> None:
    """Sweeps the shards of the organisations this worker serves, until cancelled."""
    while True:
        await asyncio.sleep(every_s * random.uniform(0.8, 1.2))  # noqa: S311 - workers must not sweep in step
        with contextlib.suppress(RedisDown, RedisReplyError):
            await sweep(ledger, organisations())
