"""Shards without an epoch: a new installation, or a Redis that was emptied. They admit nothing until they are whole.

    publish all limits and grants ─> everything in the stream is booked ─> windows = PostgreSQL, holds = open leases
    ─> one script writes both and the epoch, unless the shard was written to meanwhile; then once more

The numbers are exact: what ends while a rebuild runs moves the shard's write counter.
"""

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import func, select

from control_plane.kernel.db import Database
from control_plane.kernel.publication import GrantsOf
from control_plane.kernel.redis import Lua, RedisServer
from control_plane.ledger import publish
from control_plane.orgs import queries as orgs
from control_plane.orgs import service as orgs_service
from control_plane.spend import queries as spend
from shared import ids, redis_keys
from shared.ledger.redis import Part, RedisLedger
from shared.ledger.sweep import StoredReservation, parse_reservation, reservation_command

_log = logging.getLogger("nullspend.rebuild")

RESTORE = Lua.load("control_plane.ledger", "restore")
WINDOW_KEPT_MS: Final = 8 * 24 * 3_600_000
_SCAN: Final = 1000


@dataclass(slots=True)
class _Window:
    settled: int = 0
    held: int = 0
    end_ms: int = 0


class Rebuilder:
    """Any number may run; PostgreSQL's lock lets one rebuild at a time."""

    def __init__(self, database: Database, redis: RedisServer, ledger: RedisLedger, grants_of: GrantsOf) -> None:
        self._database = database
        self._redis = redis
        self._ledger = ledger
        self._grants_of = grants_of

    async def missing(self) -> list[int]:
        """The shards that have no epoch."""
        shards = range(redis_keys.SHARDS)
        found = await self._redis.pipeline([["EXISTS", redis_keys.epoch(redis_keys.shard_tag(n))] for n in shards])
        return [shard for shard, exists in zip(shards, found, strict=True) if not exists]

    async def rebuild(self) -> list[int]:
        """Rebuilds the shards that can be; returns those that must wait for ingest or were written to meanwhile."""
        async with self._database.transaction() as session:
            lock = select(func.pg_try_advisory_xact_lock(func.hashtextextended("ledger:rebuild", 0)))
            shards = await self.missing()
            if not shards or not await session.scalar(lock):
                return shards
            by_shard: dict[int, list[UUID]] = defaultdict(list)
            for org_id in await orgs.organisation_ids(session):
                by_shard[redis_keys.shard_of(str(org_id))].append(org_id)
            for org_id in (org_id for shard in shards for org_id in by_shard[shard]):
                await self._publish_everything(org_id)
            present = await self._windows_present(shards)
            return [
                shard for shard in shards if not await self._restore(shard, by_shard[shard], present.get(shard, set()))
            ]

    async def _publish_everything(self, org_id: UUID) -> None:
        """At a version of its own: a worker may have read the emptied Redis and believe there are no budgets."""
        async with self._database.transaction() as session:
            await orgs_service.bump_policy_version(session, org_id)
        async with self._database.read_only() as session:
            version = await orgs.policy_version(session, org_id)
            everything = await publish.read(session, org_id, version, self._grants_of, key_ids=None, budget_ids=None)
            await publish.send(self._redis, everything)

    async def _restore(self, shard: int, org_ids: Collection[UUID], present: set[str]) -> bool:
        """Whether the shard is whole now. The write counter is read before everything else."""
        prefix = redis_keys.shard_tag(shard)
        seq = await self._redis.execute(["GET", redis_keys.seq(prefix)]) or b"0"
        if not await self._all_booked(shard):
            return False
        windows: dict[str, _Window] = {window_id: _Window() for window_id in present}
        now_ms = await self._ledger.now_ms()
        async with self._database.read_only() as session:
            for row in await spend.windows_since(session, org_ids, now_ms - WINDOW_KEPT_MS):
                windows[row.window_id] = _Window(settled=row.settled, end_ms=row.end_ms)
        for stored in await self._open(shard):
            for scope in stored.scopes or ():
                window = windows.setdefault(scope.window_id, _Window())
                window.held += stored.amount
                window.end_ms = scope.window_end_ms
        keys = [redis_keys.epoch(prefix), redis_keys.seq(prefix)]
        args: list[Part] = [ids.uuid7(), seq]
        for window_id, window in windows.items():
            keys.append(redis_keys.window(prefix, window_id))
            args += (window.settled, window.held, window.end_ms)
        answer = await self._redis.execute(RESTORE.command(keys, args))
        if answer == b"restored" and windows:
            _log.warning("shard %d was rebuilt: %d windows of %d organisations", shard, len(windows), len(org_ids))
        return bool(answer != b"moved")

    async def _all_booked(self, shard: int) -> bool:
        """Whether ingest has acknowledged every entry of the shard's stream."""
        stream = redis_keys.stream(redis_keys.shard_tag(shard))
        newest = await self._redis.execute(["XREVRANGE", stream, "+", "-", "COUNT", 1])
        if not newest:
            return True
        for info in await self._redis.execute(["XINFO", "GROUPS", stream]):
            group = dict(zip(info[::2], info[1::2], strict=True))
            if group[b"name"] == redis_keys.INGEST_GROUP.encode():
                delivered = _position(group[b"last-delivered-id"]) >= _position(newest[0][0])
                return bool(group[b"pending"] == 0 and delivered)
        return False

    async def _open(self, shard: int) -> list[StoredReservation]:
        leases = await self._redis.execute(["ZRANGE", redis_keys.open_leases(redis_keys.shard_tag(shard)), 0, -1])
        rows = await self._redis.pipeline([reservation_command(shard, name.decode()) for name in leases])
        stored = [parse_reservation(row) for row in rows]
        return [row for row in stored if row is not None and row.state == "reserved"]

    async def _windows_present(self, shards: Collection[int]) -> dict[int, set[str]]:
        """Window counters that Redis has although the epoch is gone: they are corrected, not trusted."""
        prefixes = {redis_keys.window(redis_keys.shard_tag(shard), ""): shard for shard in shards}
        found: dict[int, set[str]] = defaultdict(set)
        async for name in scan(self._redis, "ns:{s*}:w:*"):
            prefix, _, window_id = name.partition(":w:")
            shard = prefixes.get(f"{prefix}:w:")
            if shard is not None:
                found[shard].add(window_id)
        return found


def _position(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


async def scan(redis: RedisServer, pattern: str) -> AsyncIterator[str]:
    """Every key that matches, each at least once."""
    cursor: Any = b"0"
    while True:
        cursor, names = await redis.execute(["SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN])
        for name in names:
            yield name.decode()
        if cursor == b"0":
            return
