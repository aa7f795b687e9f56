"""Sweeping: finding the leases of a shard that are over and asking the ledger to lapse them.

Whether a lease is over is decided once more inside `expire`, so any number of sweepers may race. A client that
pipelines by itself uses the commands; the others `sweep`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from shared import redis_keys
from shared.ledger import Expire, Ok, Scope, State
from shared.ledger.redis import Part, RedisLedger, decode_windows

BATCH: Final = 1_000
"""As many leases of a shard are looked at in one go; the next sweep continues."""


@dataclass(frozen=True, slots=True)
class StoredReservation:
    """A reservation as the ledger keeps it. `scopes` is None where none were named: a tombstone, or a closed case."""

    state: State
    org_id: str
    amount: int
    lease_end_ms: int
    scopes: tuple[Scope, ...] | None


def over_command(shard: int, now_ms: int, count: int) -> list[Part]:
    """Replies with the ids of up to `count` leases that ended at `now_ms` or before, oldest first."""
    key = redis_keys.open_leases(redis_keys.shard_tag(shard))
    return ["ZRANGEBYSCORE", key, "-inf", now_ms, "LIMIT", 0, count]


def reservation_command(shard: int, reservation_id: str) -> list[Part]:
    key = redis_keys.reservation(redis_keys.shard_tag(shard), reservation_id)
    return ["HMGET", key, "state", "org", "amount", "lease_end", "windows"]


def parse_reservation(reply: Sequence[Any]) -> StoredReservation | None:
    """The reply to `reservation_command`; None for an id the ledger does not know."""
    state, org_id, amount, lease_end, windows = reply
    if state is None:
        return None
    return StoredReservation(
        state=cast("State", state.decode()),
        org_id=org_id.decode(),
        amount=int(amount or 0),
        lease_end_ms=int(lease_end or 0),
        scopes=None if windows is None else decode_windows(windows.decode()),
    )


async def overdue(ledger: RedisLedger, shard: int, *, count: int = BATCH) -> list[Expire]:
    """The `expire` verbs that are due in a shard, at most `count`."""
    due = []
    for name in await ledger.execute(over_command(shard, await ledger.now_ms(), count)):
        reservation_id = name.decode()
        stored = parse_reservation(await ledger.execute(reservation_command(shard, reservation_id)))
        if stored is not None and stored.state == "reserved":
            due.append(Expire(reservation_id, stored.org_id, stored.scopes or ()))
    return due


async def sweep_shard(ledger: RedisLedger, shard: int) -> int:
    """Lapse what is overdue in one shard; how many this sweeper ended."""
    replies = [await ledger.expire(verb) for verb in await overdue(ledger, shard)]
    return sum(isinstance(reply, Ok) for reply in replies)


async def sweep(ledger: RedisLedger, organisations: Iterable[str]) -> int:
    """Lapse what is overdue in the shards of these organisations, which others may share."""
    shards = {redis_keys.shard_of(org_id) for org_id in organisations}
    return sum([await sweep_shard(ledger, shard) for shard in sorted(shards)])
