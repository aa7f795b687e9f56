"""Keeps a worker's copies fresh: what was published is announced, and polled for in case an announcement is lost."""

import asyncio
import contextlib
from typing import Final

from data_plane.auth import Keys
from data_plane.policies import Policies
from data_plane.pricebook import PriceBook
from shared import redis_keys
from shared.redis_wire import RedisClient, RedisDown, RedisReplyError

_POLL_S: Final = 0.5
_PRICES_EVERY: Final = 10


class Watch:
    """Two ways for a change to arrive: the channel at once, the poll within half a second."""

    def __init__(self, redis: RedisClient, keys: Keys, policies: Policies, prices: PriceBook) -> None:
        self._redis = redis
        self._keys = keys
        self._policies = policies
        self._prices = prices

    async def start(self) -> None:
        await self._redis.subscribe(redis_keys.CHANGES_CHANNEL, self._announced, on_gap=self._missed)

    async def run(self) -> None:
        """Polls until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(_POLL_S)
            with contextlib.suppress(RedisDown, RedisReplyError):
                await self.poll()
            turn += 1
            if turn % _PRICES_EVERY == 0:
                await self._prices.refresh()

    async def poll(self) -> None:
        """Compares the policy version of every organisation in the caches. Raises RedisDown or RedisReplyError."""
        copies = (self._keys.versions(), self._policies.versions())
        replies = [
            (org_id, self._redis.execute("GET", redis_keys.policy_version(redis_keys.tag(org_id), org_id)))
            for org_id in set().union(*copies)
        ]
        for org_id, reply in replies:
            current = int(await reply or 0)
            if any(copy.get(org_id, current) != current for copy in copies):
                self._forget(org_id)

    def _announced(self, message: bytes) -> None:
        self._forget(message.decode())

    def _missed(self) -> None:
        """Announcements may have been lost: nothing that is cached can be trusted."""
        for org_id in set(self._keys.versions()) | set(self._policies.versions()):
            self._forget(org_id)

    def _forget(self, org_id: str) -> None:
        self._keys.forget(org_id)
        self._policies.forget(org_id)
