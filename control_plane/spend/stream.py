"""The event streams of all shards, read as one consumer of the group: new entries, abandoned ones, and the trimming.

Nothing is acknowledged here unless the caller says it is booked, and nothing is trimmed that was not acknowledged.
"""

import time
from dataclasses import dataclass
from typing import Any, Final

from control_plane.kernel.redis import RedisServer
from shared import redis_keys
from shared.ledger.redis import Part

STREAMS: Final = tuple(redis_keys.stream(redis_keys.shard_tag(shard)) for shard in range(redis_keys.SHARDS))
_GROUP: Final = redis_keys.INGEST_GROUP
_ABANDONED_MS: Final = 30_000
"""An entry that a consumer holds longer than this without acknowledging it is taken over by another one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it is in the stream. `fields` is empty for one that was removed before it was read."""

    stream: str
    id: str
    fields: tuple[bytes, ...]

    def mapping(self) -> dict[bytes, bytes]:
        return dict(zip(self.fields[::2], self.fields[1::2], strict=True))


class Reader:
    """One consumer. `count` entries at most come from each shard at once."""

    def __init__(self, redis: RedisServer, consumer: str, *, count: int) -> None:
        self._redis = redis
        self._consumer = consumer
        self._count = count

    async def join(self) -> None:
        """Makes the group on every stream that lacks it, from the stream's beginning."""
        commands: list[list[Part]] = [["XGROUP", "CREATE", stream, _GROUP, "0", "MKSTREAM"] for stream in STREAMS]
        for reply in await self._redis.pipeline_each(commands):
            if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
                raise reply

    async def own(self) -> list[Entry]:
        """What this consumer was given before and never acknowledged: it was stopped, or the reply was lost."""
        return await self._read("0", block_ms=None)

    async def new(self, *, block_ms: int | None) -> list[Entry]:
        """Entries nobody has read; waits up to `block_ms` for the first."""
        return await self._read(">", block_ms=block_ms)

    async def abandoned(self) -> list[Entry]:
        """Entries that another consumer, or a lost reply to this one, left unacknowledged for half a minute."""
        claim: list[Part] = [_GROUP, self._consumer, _ABANDONED_MS, "0-0", "COUNT", self._count]
        entries: list[Entry] = []
        replies = await self._redis.pipeline([["XAUTOCLAIM", stream, *claim] for stream in STREAMS])
        for stream, reply in zip(STREAMS, replies, strict=True):
            entries += [_entry(stream, row) for row in reply[1]]
            entries += [Entry(stream, gone.decode(), ()) for gone in reply[2]]
        return entries

    async def acknowledge(self, entries: list[Entry]) -> None:
        by_stream: dict[str, list[Part]] = {}
        for entry in entries:
            by_stream.setdefault(entry.stream, []).append(entry.id)
        await self._redis.pipeline([["XACK", stream, _GROUP, *ids] for stream, ids in by_stream.items()])

    async def _read(self, position: str, *, block_ms: int | None) -> list[Entry]:
        blocking: list[Part] = [] if block_ms is None else ["BLOCK", block_ms]
        parts: list[Part] = ["XREADGROUP", "GROUP", _GROUP, self._consumer, "COUNT", self._count, *blocking, "STREAMS"]
        reply = await self._redis.execute([*parts, *STREAMS, *[position] * len(STREAMS)])
        return [_entry(stream.decode(), row) for stream, rows in reply or () for row in rows]


def _entry(stream: str, row: Any) -> Entry:
    entry_id, fields = row
    return Entry(stream, entry_id.decode(), tuple(fields or ()))


class Trimmer:
    """Removes entries that have been acknowledged for at least `keep_s`.

    The age is that of the acknowledgement, as seen by this process: an audit compares a database snapshot with a later
    look at the stream, and must still find there whatever was booked in between.
    """

    def __init__(self, redis: RedisServer, *, keep_s: float) -> None:
        self._redis = redis
        self._keep_s = keep_s
        self._seen: list[tuple[float, dict[str, str]]] = []

    async def trim(self) -> None:
        """Notes up to where each stream is acknowledged, and trims to what was noted `keep_s` ago."""
        now = time.monotonic()
        self._seen.append((now, await self._acknowledged()))
        due = [horizon for at, horizon in self._seen if at <= now - self._keep_s]
        if not due:
            return
        self._seen = [(at, horizon) for at, horizon in self._seen if at > now - self._keep_s]
        await self._redis.pipeline([["XTRIM", stream, "MINID", "=", first] for stream, first in due[-1].items()])

    async def _acknowledged(self) -> dict[str, str]:
        """Per stream the smallest id that must stay: the oldest pending entry, else the last delivered one."""
        infos = await self._redis.pipeline_each([["XINFO", "GROUPS", stream] for stream in STREAMS])
        waiting = await self._redis.pipeline_each([["XPENDING", stream, _GROUP] for stream in STREAMS])
        horizon: dict[str, str] = {}
        for stream, groups, pending in zip(STREAMS, infos, waiting, strict=True):
            if isinstance(groups, Exception) or isinstance(pending, Exception):
                continue  # a stream or a group that does not exist has nothing to trim
            delivered = next(
                (g[b"last-delivered-id"] for g in map(pairs, groups) if g[b"name"] == _GROUP.encode()), None
            )
            if delivered is not None:
                horizon[stream] = (pending[1] if pending[0] else delivered).decode()
        return horizon


def pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
