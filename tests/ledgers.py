"""The two ledgers of the tests, asked in the same words: the model in memory, and the Lua on a server.

`picture_of` and `dump` write down the whole state of each in the same form, key by key, so that they can be compared.
"""

from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

import redis

from shared import redis_keys
from shared.clock import Clock
from shared.ledger import (
    Expire,
    Extend,
    Read,
    Record,
    Release,
    Reply,
    Reserve,
    Scope,
    SetLimit,
    Settle,
    StreamEntry,
    Verb,
)
from shared.ledger.model import MemoryLedger, Reservation, Shard
from shared.ledger.redis import RedisLedger, encode_windows, parse_entry

_T = TypeVar("_T")

Content = dict[str, tuple[object, int]]
"""Key to its content and the instant it expires at (-1: never)."""


class AnyLedger(Protocol):
    def send(self, verb: Verb) -> Reply: ...

    def set_epoch(self, org_id: str, *, present: bool) -> None: ...

    def lose_limit(self, org_id: str, budget_id: str) -> None:
        """What no verb does: the server forgets a budget's row."""

    def stream(self, org_id: str) -> list[StreamEntry]: ...


class InMemory:
    def __init__(self, clock: Clock) -> None:
        self.model = MemoryLedger(clock)

    def send(self, verb: Verb) -> Reply:
        match verb:
            case Reserve():
                return self.model.reserve(verb)
            case Extend():
                return self.model.extend(verb)
            case Settle():
                return self.model.settle(verb)
            case Release():
                return self.model.release(verb)
            case Expire():
                return self.model.expire(verb)
            case Record():
                return self.model.record(verb)
            case SetLimit():
                return self.model.set_limit(verb)
            case Read():
                return self.model.read(verb)

    def set_epoch(self, org_id: str, *, present: bool) -> None:
        self.model.shard(org_id).epoch = present

    def lose_limit(self, org_id: str, budget_id: str) -> None:
        del self.model.shard(org_id).budgets[budget_id]

    def stream(self, org_id: str) -> list[StreamEntry]:
        shard = redis_keys.shard_of(org_id)
        return [entry for entry in self.model.stream if redis_keys.shard_of(entry.org_id) == shard]


class OnServer:
    """`RedisLedger` over a blocking connection: its coroutines never wait, so they are run to their end at once."""

    def __init__(self, client: Any, clock: Clock | None) -> None:
        async def execute(parts: list[str | bytes | int]) -> Any:
            return client.execute_command(*parts)

        self.client = client
        self.ledger = RedisLedger(execute, clock=clock)

    def send(self, verb: Verb) -> Reply:
        return finished(self.ledger.send(verb))

    def set_epoch(self, org_id: str, *, present: bool) -> None:
        key = redis_keys.epoch(redis_keys.tag(org_id))
        if present:
            self.client.set(key, "1")
        else:
            self.client.delete(key)

    def lose_limit(self, org_id: str, budget_id: str) -> None:
        self.client.delete(redis_keys.limit(redis_keys.tag(org_id), budget_id))

    def stream(self, org_id: str) -> list[StreamEntry]:
        return self.stream_after(org_id, "-")[1]

    def stream_after(self, org_id: str, last: str) -> tuple[str, list[StreamEntry]]:
        """The entries behind an id (`-`: all of them), and the id of the last."""
        start = last if last == "-" else f"({last}"
        found = self.client.execute_command("XRANGE", redis_keys.stream(redis_keys.tag(org_id)), start, "+")
        return found[-1][0].decode() if found else last, [parse_entry(fields) for _, fields in found]


def finished(awaitable: Awaitable[_T]) -> _T:
    async def wait() -> _T:
        return await awaitable

    try:
        wait().send(None)
    except StopIteration as stop:
        value: _T = stop.value
        return value
    raise AssertionError("the coroutine waits for something")


def connect(path: str) -> Any:
    """A redis-py client; its command functions have no types."""
    return redis.Redis(unix_socket_path=path, protocol=2, decode_responses=False)


# ------------------------------------------------------------------------------------------ whole states


_DUMP = """
local rows = {}
for i, key in ipairs(redis.call('KEYS', '*')) do
  local kind, content = redis.call('TYPE', key).ok, false
  if kind == 'hash' then content = redis.call('HGETALL', key) end
  if kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if kind == 'string' then content = redis.call('GET', key) end
  rows[i] = {key, kind, redis.call('PEXPIRETIME', key), content}
end
return rows
"""


def dump(client: Any) -> Content:
    """Every key of a server but the streams."""
    rows = client.eval(_DUMP, 0)
    return {key.decode(): (_plain(kind, content), expiry) for key, kind, expiry, content in rows if kind != b"stream"}


def _plain(kind: bytes, content: Any) -> object:
    if kind == b"string":
        return content
    pairs = zip(content[::2], content[1::2], strict=True)
    return {name.decode(): int(value) if kind == b"zset" else value for name, value in pairs}


def picture_of(model: MemoryLedger) -> Content:
    """What a server that did the same must hold."""
    content: Content = {}
    for index, shard in model.shards.items():
        content.update(_picture_of_shard(redis_keys.shard_tag(index), shard))
    return content


def _picture_of_shard(prefix: str, shard: Shard) -> Content:
    content: Content = {}
    if shard.epoch:
        content[redis_keys.epoch(prefix)] = b"1", -1
    if shard.seq:
        content[redis_keys.seq(prefix)] = _digits(shard.seq), -1
    for org_id, version in shard.policy_versions.items():
        content[redis_keys.policy_version(prefix, org_id)] = _digits(version), -1
    for (org_id, entity), policy in shard.policies.items():
        row: dict[str, bytes] = {"v": _digits(policy.version), "body": policy.body}
        content[redis_keys.policy(prefix, org_id, entity)] = row, -1
    for budget_id, budget in shard.budgets.items():
        row = {"version": _digits(budget.version), "deleted": _digits(budget.deleted)}
        content[redis_keys.limit(prefix, budget_id)] = row | _limit(budget.limit, deleted=budget.deleted), -1
    for window_id, window in shard.windows.items():
        row = {"settled": _digits(window.settled), "held": _digits(window.held)}
        content[redis_keys.window(prefix, window_id)] = row, window.expires_at_ms or -1
    for name, known in shard.reservations.items():
        content[redis_keys.reservation(prefix, name)] = _reservation(known), known.expires_at_ms or -1
    leases = {name: known.lease_end_ms for name, known in shard.reservations.items() if known.state == "reserved"}
    if leases:
        content[redis_keys.open_leases(prefix)] = leases, -1
    return content


def _limit(limit: int, *, deleted: bool) -> dict[str, bytes]:
    return {} if deleted else {"limit": _digits(limit)}


def _reservation(known: Reservation) -> dict[str, bytes]:
    row = {"state": known.state.encode(), "org": known.org_id.encode()}
    windows = {} if known.scopes is None else {"windows": encode_windows(known.scopes).encode()}
    if known.state == "reserved":
        row |= {"amount": _digits(known.amount), "lease_end": _digits(known.lease_end_ms), "draft": known.draft}
        return row | windows
    row |= {"charged": _digits(known.charged), "rank": _digits(known.rank)}
    return row | windows if known.state in {"released", "lapsed"} else row


def _digits(number: int) -> bytes:
    return b"%d" % number


def scope(budget_id: str, value: str = "-", start: int = 0, end: int = 0) -> Scope:
    return Scope(budget_id, value, start, end)
