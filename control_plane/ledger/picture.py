"""Redis as the audit sees it: each shard at one instant, with its stream up to that instant. Changes nothing."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from control_plane.kernel.redis import RedisServer
from control_plane.ledger.rebuild import scan
from shared import redis_keys
from shared.ledger import StreamEntry
from shared.ledger.audit import Picture, audit_command, parse_audit, unseen
from shared.ledger.redis import parse_entry

_BATCH: Final = 1000
_LOOKS: Final = 20


class AuditInconclusive(Exception):
    """The audit could not be completed; nothing is known to be wrong. The message says why."""


@dataclass(slots=True)
class Names:
    """Rows of one shard that exist, or did a moment ago."""

    reservations: set[str] = field(default_factory=set)
    windows: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class ShardPicture:
    shard: int
    ledger: Picture
    entries: tuple[StreamEntry, ...]
    windows_asked: frozenset[str]


async def names(redis: RedisServer) -> dict[int, Names]:
    """Every window of every shard, and the reservations that are open although no lease names them."""
    found: dict[int, Names] = defaultdict(Names)
    shards = {f"ns:{{s{shard}}}": shard for shard in range(redis_keys.SHARDS)}
    suspects: list[tuple[int, str]] = []
    async for name in scan(redis, "ns:{s*}:[rw]:*"):
        prefix, kind, rest = _split(name)
        shard = shards.get(prefix)
        if shard is not None and kind == "w":
            found[shard].windows.add(rest)
        elif shard is not None and kind == "r":
            suspects.append((shard, rest))
    for start in range(0, len(suspects), _BATCH):
        batch = suspects[start : start + _BATCH]
        states = await redis.pipeline(
            [["HGET", redis_keys.reservation(redis_keys.shard_tag(shard), name), "state"] for shard, name in batch]
        )
        for (shard, name), state in zip(batch, states, strict=True):
            if state == b"reserved":
                found[shard].reservations.add(name)
    return found


def _split(name: str) -> tuple[str, str, str]:
    """`ns:{s17}:w:abc` to its prefix, kind and the rest."""
    prefix, _, rest = name.partition("}:")
    kind, _, rest = rest.partition(":")
    return prefix + "}", kind, rest


async def look(redis: RedisServer, shard: int, known: Names) -> ShardPicture:
    """One instant of a shard that names everything it counts. Asks again while something new comes up."""
    for _ in range(_LOOKS):
        reservations, windows = sorted(known.reservations), sorted(known.windows)
        stream = redis_keys.stream(redis_keys.shard_tag(shard))
        command = audit_command(shard, reservations, windows).with_source()
        answer, newest = await redis.atomically([command, ["XREVRANGE", stream, "+", "-", "COUNT", 1]])
        picture = parse_audit(reservations, windows, answer)
        entries = await _entries(redis, stream, newest[0][0] if newest else None)
        new_reservations, new_windows = unseen(picture, reservations, windows)
        new_windows |= {window for entry in entries for window in entry.windows} - set(windows)
        if not new_reservations and not new_windows:
            return ShardPicture(shard, picture, entries, frozenset(windows))
        known.reservations |= new_reservations
        known.windows |= new_windows
    raise AuditInconclusive(f"shard {shard} changes faster than it can be looked at; try again")


async def _entries(redis: RedisServer, stream: str, last: bytes | None) -> tuple[StreamEntry, ...]:
    """The stream up to an entry. What cannot be read is parked by ingest and reported there."""
    entries: list[StreamEntry] = []
    after = "-"
    while last is not None:
        rows: list[Any] = await redis.execute(["XRANGE", stream, after, last, "COUNT", _BATCH])
        entries += _readable(rows)
        if len(rows) < _BATCH:
            break
        after = "(" + rows[-1][0].decode()
    return tuple(entries)


def _readable(rows: Iterable[Any]) -> list[StreamEntry]:
    entries = []
    for _, fields in rows:
        try:
            entries.append(parse_entry(dict(zip(fields[::2], fields[1::2], strict=True))))
        except (ValueError, KeyError):
            continue
    return entries
