"""Shards without an epoch: a new installation, or a Redis that was emptied. They admit nothing until they are whole.

    publish all limits and grants ─> everything in the stream is booked ─> windows = PostgreSQL, holds = open leases
    ─> one script writes both and the epoch, unless the shard was written to meanwhile; then once more

The numbers are exact: what ends while a rebuild runs moves the shard's write counter.
"""

import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
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
from control_plane.spend.stream import pairs
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
            return await self._restore(shards, by_shard)

    async def _publish_everything(self, org_id: UUID) -> None:
        """At a version of its own: a worker may have read the emptied Redis and believe there are no budgets."""
        async with self._database.transaction() as session:
            await orgs_service.bump_policy_version(session, org_id)
        async with self._database.read_only() as session:
            version = await orgs.policy_version(session, org_id)
            everything = await publish.read(session, org_id, version, self._grants_of, key_ids=None, budget_ids=None)
            await publish.send(self._redis, everything)

    async def _restore(self, shards: Sequence[int], org_ids: Mapping[int, Sequence[UUID]]) -> list[int]:
        """The shards that are not whole yet. Their write counters are read before everything else."""
        prefixes = {shard: redis_keys.shard_tag(shard) for shard in shards}
        counters = await self._redis.pipeline([["GET", redis_keys.seq(prefix)] for prefix in prefixes.values()])
        seqs = dict(zip(shards, counters, strict=True))
        booked = [shard for shard in shards if await self._all_booked(shard)]
        windows = await self._windows(booked, org_ids)
        commands = []
        for shard in booked:
            keys = [redis_keys.epoch(prefixes[shard]), redis_keys.seq(prefixes[shard])]
            args: list[Part] = [ids.uuid7(), seqs[shard] or b"0"]
            for window_id, window in windows[shard].items():
                keys.append(redis_keys.window(prefixes[shard], window_id))
                args += (window.settled, window.held, window.end_ms)
            commands.append(RESTORE.command(keys, args))
        answers = await self._redis.pipeline(commands)
        for shard, answer in zip(booked, answers, strict=True):
            if answer == b"restored" and windows[shard]:
                _log.warning("shard %d was rebuilt with %d windows", shard, len(windows[shard]))
        moved = {shard for shard, answer in zip(booked, answers, strict=True) if answer == b"moved"}
        return [shard for shard in shards if shard in moved or shard not in booked]

    async def _windows(
        self, shards: Sequence[int], org_ids: Mapping[int, Sequence[UUID]]
    ) -> dict[int, dict[str, _Window]]:
        """What every window must hold: settled from PostgreSQL, held from the open leases."""
        present = await self._windows_present(shards)
        now_ms = await self._ledger.now_ms()
        windows = {shard: {window_id: _Window() for window_id in present[shard]} for shard in shards}
        async with self._database.read_only() as session:
            for shard in shards:
                for row in await spend.windows_since(session, org_ids.get(shard, ()), now_ms - WINDOW_KEPT_MS):
                    windows[shard][row.window_id] = _Window(settled=row.settled, end_ms=row.end_ms)
        leases = await self._redis.pipeline(
            [["ZRANGE", redis_keys.open_leases(redis_keys.shard_tag(shard)), 0, -1] for shard in shards]
        )
        for shard, names in zip(shards, leases, strict=True):
            rows = await self._redis.pipeline([reservation_command(shard, name.decode()) for name in names])
            for stored in map(parse_reservation, rows):
                if stored is not None and stored.state == "reserved":
                    _hold(windows[shard], stored)
        return windows

    async def _all_booked(self, shard: int) -> bool:
        """Whether ingest has acknowledged every entry of the shard's stream."""
        stream = redis_keys.stream(redis_keys.shard_tag(shard))
        newest, groups = await self._redis.pipeline_each(
            [["XREVRANGE", stream, "+", "-", "COUNT", 1], ["XINFO", "GROUPS", stream]]
        )
        if not newest:
            return True
        for group in map(pairs, groups):
            if group[b"name"] == redis_keys.INGEST_GROUP.encode():
                delivered = _position(group[b"last-delivered-id"]) >= _position(newest[0][0])
                return bool(group[b"pending"] == 0 and delivered)
        return False

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


def _hold(windows: dict[str, _Window], stored: StoredReservation) -> None:
    for scope in stored.scopes or ():
        window = windows.setdefault(scope.window_id, _Window())
        window.held += stored.amount
        window.end_ms = scope.window_end_ms


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
