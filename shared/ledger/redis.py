"""The bridge from the ledger's values to a Redis server and back, without I/O: verbs to commands, replies to values.

Any client can carry it: the data plane pipelines `Command.parts` on its own connection, the control plane hands
`RedisLedger` a function that sends one command. What the verbs do is written in `lua/`, and once more in `model`.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeAlias, cast

from shared import redis_keys
from shared.clock import Clock
from shared.ledger import (
    AMOUNT_MAX,
    Alive,
    Conflict,
    Denied,
    Expire,
    ExpireReply,
    Extend,
    ExtendReply,
    NoEpoch,
    NoLimit,
    Ok,
    OldVersion,
    Read,
    ReadReply,
    Record,
    RecordReply,
    Release,
    ReleaseReply,
    Replay,
    Reply,
    Reserve,
    ReserveReply,
    Scope,
    ScopeState,
    SetLimit,
    SetLimitReply,
    Settle,
    SettleReply,
    StalePolicy,
    State,
    StreamEntry,
    Terminal,
    Unknown,
    Verb,
)

Part: TypeAlias = str | bytes | int
Execute: TypeAlias = Callable[[list[Part]], Awaitable[Any]]

# ---------------------------------------------------------------------------------------------- scripts


class Script(NamedTuple):
    source: str
    sha1: str


def _script(*names: str) -> Script:
    folder = files("shared.ledger") / "lua"
    source = "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in names)
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


SCRIPTS: Final[dict[str, Script]] = {
    "reserve": _script("prelude", "windows", "reserve"),
    "extend": _script("prelude", "extend"),
    "settle": _script("prelude", "windows", "booking", "settle"),
    "release": _script("prelude", "windows", "booking", "release"),
    "expire": _script("prelude", "windows", "booking", "expire"),
    "record": _script("prelude", "windows", "booking", "record"),
    "set_limit": _script("prelude", "set_limit"),
    "read": _script("prelude", "read"),
    "audit": _script("prelude", "audit"),
}


class Command(NamedTuple):
    """One script call. `parts` is the whole command by hash; `with_source` the same for a server that lacks it."""

    script: Script
    parts: list[Part]

    def with_source(self) -> list[Part]:
        return ["EVAL", self.script.source, *self.parts[2:]]


class Retry(NamedTuple):
    """Nothing moved: the reservation was born in other windows than the caller believed. Send `verb` instead."""

    verb: Verb


# ---------------------------------------------------------------------------------------------- keys and windows


class _Places(NamedTuple):
    """The keys of one organisation's calls in the same scopes. `prefix` ends where the reservation's id begins."""

    prefix: str
    open: str
    seq: str
    stream: str
    epoch: str
    policy_version: str
    windows: tuple[str, ...]
    windows_and_limits: tuple[str, ...]
    text: str
    """The scopes as the ledger stores them, see `encode_windows`."""


@lru_cache(maxsize=2048)
def _places(org_id: str, scopes: tuple[Scope, ...]) -> _Places:
    """Calls come in the same few scopes again and again, and building their keys is most of the work."""
    budgets = {scope.budget_id for scope in scopes}
    assert len(budgets) == len(scopes), "a budget is charged once per call"
    assert not any(":" in budget_id for budget_id in budgets), "a colon ends the budget in a window id"
    prefix, pairs = redis_keys.tag(org_id), _windows_and_limits(org_id, scopes)
    return _Places(
        prefix=redis_keys.reservation(prefix, ""),
        open=redis_keys.open_leases(prefix),
        seq=redis_keys.seq(prefix),
        stream=redis_keys.stream(prefix),
        epoch=redis_keys.epoch(prefix),
        policy_version=redis_keys.policy_version(prefix, org_id),
        windows=tuple(pairs[::2]),
        windows_and_limits=tuple(pairs),
        text=encode_windows(scopes),
    )


def _windows_and_limits(org_id: str, scopes: Sequence[Scope]) -> list[str]:
    prefix, keys = redis_keys.tag(org_id), []
    for scope in scopes:
        keys += [redis_keys.window(prefix, scope.window_id), redis_keys.limit(prefix, scope.budget_id)]
    return keys


def encode_windows(scopes: Sequence[Scope]) -> str:
    """Scopes as the ledger stores and compares them: `<end ms> <window id>`, one per line."""
    text = "\n".join([f"{scope.window_end_ms} {scope.window_id}" for scope in scopes])
    assert text.count("\n") == max(len(scopes) - 1, 0), "a window id holds a line break"
    return text


def decode_windows(text: str) -> tuple[Scope, ...]:
    """The inverse of `encode_windows`: budget ids hold no colon, so the first two separate."""
    scopes = []
    for line in text.split("\n") if text else ():
        window_end, _, window_id = line.partition(" ")
        budget_id, start, value = window_id.split(":", 2)
        scopes.append(Scope(budget_id, value, int(start), int(window_end)))
    return tuple(scopes)


def _is_amount(amount: int) -> bool:
    return 0 <= amount <= AMOUNT_MAX


# ---------------------------------------------------------------------------------------------- verbs to commands


def encode(verb: Verb, now_ms: int | None = None) -> Command:
    """The script call for a verb. `now_ms` replaces the server's clock in tests."""
    now: Part = "" if now_ms is None else now_ms
    match verb:
        case Reserve():
            return _encode_reserve(verb, now)
        case Settle():
            assert _is_amount(verb.amount)
            return _encode_ending("settle", verb, now, verb.amount, event=verb.event)
        case Release():
            return _encode_ending("release", verb, now, 0, event=verb.event)
        case Extend():
            return _encode_extend(verb, now)
        case Record():
            assert _is_amount(verb.amount)
            return _encode_ending("record", verb, now, verb.amount, event=verb.event)
        case Expire():
            return _encode_ending("expire", verb, now, int(verb.force))
        case SetLimit():
            return _encode_set_limit(verb, now)
        case Read():
            keys = [redis_keys.seq(redis_keys.tag(verb.org_id)), *_windows_and_limits(verb.org_id, verb.scopes)]
            return _command("read", keys, now, verb.org_id)


def _command(name: str, keys: Sequence[str], *args: Part) -> Command:
    script = SCRIPTS[name]
    return Command(script, ["EVALSHA", script.sha1, len(keys), *keys, *args])


def _encode_reserve(verb: Reserve, now: Part) -> Command:
    assert _is_amount(verb.amount)
    at, script = _places(verb.org_id, verb.scopes), SCRIPTS["reserve"]
    parts: list[Part] = ["EVALSHA", script.sha1, 5 + len(at.windows_and_limits)]
    parts += (at.prefix + verb.id, at.open, at.seq, at.epoch, at.policy_version)
    parts += at.windows_and_limits
    parts += (now, verb.org_id, verb.id, verb.amount, at.text, verb.lease_ms, verb.policy_version, verb.draft)
    return Command(script, parts)


def _encode_extend(verb: Extend, now: Part) -> Command:
    assert _is_amount(verb.add)
    at = _places(verb.org_id, verb.scopes)
    keys = [at.prefix + verb.id, at.open, at.seq, *at.windows_and_limits]
    return _command("extend", keys, now, verb.org_id, verb.id, verb.add, at.text, verb.lease_ms)


def _encode_ending(
    name: str, verb: Settle | Release | Expire | Record, now: Part, number: int, *, event: bytes = b""
) -> Command:
    """`number` is the amount, or whether to force; `expire` brings no event, it has the draft."""
    at, script = _places(verb.org_id, verb.scopes), SCRIPTS[name]
    parts: list[Part] = ["EVALSHA", script.sha1, 4 + len(at.windows)]
    parts += (at.prefix + verb.id, at.open, at.seq, at.stream)
    parts += at.windows
    parts += (now, verb.org_id, verb.id, number, at.text, event)
    return Command(script, parts)


def _encode_set_limit(verb: SetLimit, now: Part) -> Command:
    assert 0 <= verb.limit < 2**53
    prefix = redis_keys.tag(verb.org_id)
    keys = [
        redis_keys.limit(prefix, verb.budget_id),
        redis_keys.seq(prefix),
        redis_keys.policy_version(prefix, verb.org_id),
        redis_keys.policy(prefix, verb.org_id, verb.entity),
    ]
    args: list[Part] = [now, verb.org_id, verb.version, verb.limit, int(verb.deleted), verb.policy_version]
    return _command("set_limit", keys, *args, verb.definition, redis_keys.CHANGES_CHANNEL)


# ---------------------------------------------------------------------------------------------- replies to values


def decode(verb: Verb, reply: Sequence[Any]) -> Reply | Retry:
    """A script's reply as RESP2 brings it (integers, bytes, lists) to a value. Errors are the client's business."""
    status = reply[0]
    if status == b"ok":
        return Ok(reply[1], int(reply[2]), _states(reply))
    if status == b"replay":
        return Replay(reply[1], int(reply[2]), _states(reply))
    if status == b"denied":
        return Denied(reply[1], _states(reply))
    if status == b"windows":
        return Retry(_with_scopes(verb, decode_windows(reply[1].decode())))
    return _decode_refusal(status, reply, verb)


def _states(reply: Sequence[Any]) -> tuple[ScopeState, ...]:
    return tuple(
        [ScopeState(int(reply[n]), int(reply[n + 1]), int(reply[n + 2])) for n in range(3, len(reply), 3)],
    )


def _with_scopes(verb: Verb, scopes: tuple[Scope, ...]) -> Verb:
    assert not isinstance(verb, SetLimit)
    return replace(verb, scopes=scopes)


def _decode_refusal(status: bytes, reply: Sequence[Any], verb: Verb) -> Reply:
    match status:
        case b"terminal":
            return Terminal(_state(reply[1]))
        case b"stale_policy":
            return StalePolicy(int(reply[1]))
        case b"no_epoch":
            return NoEpoch()
        case b"no_limit":
            assert isinstance(verb, Reserve | Extend)
            return NoLimit(verb.scopes[reply[1] - 1].budget_id)
        case b"conflict":
            return Conflict(_state(reply[1]), int(reply[2]))
        case b"unknown":
            return Unknown()
        case b"alive":
            return Alive(int(reply[1]))
        case b"old_version":
            return OldVersion(int(reply[1]))
        case _:
            raise AssertionError(f"not a reply of the ledger: {reply!r}")


def _state(text: bytes) -> State:
    return cast("State", text.decode())


def parse_entry(fields: Mapping[bytes, bytes]) -> StreamEntry:
    """One entry of the stream. Other kinds of records than cost events are a ValueError."""
    if fields.get(b"k") != b"cost":
        raise ValueError(f"not a cost event: kind {fields.get(b'k')!r}")
    windows, flags = fields[b"w"].decode(), fields[b"f"].decode()
    return StreamEntry(
        event_id=fields[b"id"].decode(),
        org_id=fields[b"org"].decode(),
        rank=int(fields[b"rank"]),
        cost=int(fields[b"cost"]),
        booked_at_ms=int(fields[b"ms"]),
        windows=tuple(line.partition(" ")[2] for line in windows.split("\n")) if windows else (),
        flags=tuple(flags.split(",")) if flags else (),
        body=fields[b"e"],
    )


# ---------------------------------------------------------------------------------------------- a client


def _is_noscript(error: Exception) -> bool:
    """By the text of the server, or by the class redis-py makes of it."""
    return str(error).startswith("NOSCRIPT") or type(error).__name__ == "NoScriptError"


class RedisLedger:
    """The verbs on a server. `execute` sends one command and returns its reply, or raises its client's error.

    A test passes a clock; otherwise the server's own decides.
    """

    def __init__(
        self,
        execute: Execute,
        *,
        is_noscript: Callable[[Exception], bool] = _is_noscript,
        clock: Clock | None = None,
    ) -> None:
        self.execute = execute
        self._is_noscript = is_noscript
        self._clock = clock

    async def reserve(self, verb: Reserve) -> ReserveReply:
        return cast("ReserveReply", await self.send(verb))

    async def extend(self, verb: Extend) -> ExtendReply:
        return cast("ExtendReply", await self.send(verb))

    async def settle(self, verb: Settle) -> SettleReply:
        return cast("SettleReply", await self.send(verb))

    async def release(self, verb: Release) -> ReleaseReply:
        return cast("ReleaseReply", await self.send(verb))

    async def expire(self, verb: Expire) -> ExpireReply:
        return cast("ExpireReply", await self.send(verb))

    async def record(self, verb: Record) -> RecordReply:
        return cast("RecordReply", await self.send(verb))

    async def set_limit(self, verb: SetLimit) -> SetLimitReply:
        return cast("SetLimitReply", await self.send(verb))

    async def read(self, verb: Read) -> ReadReply:
        return cast("ReadReply", await self.send(verb))

    async def now_ms(self) -> int:
        if self._clock is not None:
            return self._clock.now_ms()
        seconds, micros = await self.execute(["TIME"])
        return int(seconds) * 1000 + int(micros) // 1000

    async def send(self, verb: Verb) -> Reply:
        """A verb to its reply, in the windows the reservation was born in."""
        now_ms = None if self._clock is None else self._clock.now_ms()
        reply = decode(verb, await self.run(encode(verb, now_ms)))
        if isinstance(reply, Retry):
            verb = reply.verb
            reply = decode(verb, await self.run(encode(verb, now_ms)))
        assert not isinstance(reply, Retry), "the windows of a reservation never change"
        return reply

    async def run(self, command: Command) -> Any:
        """One script call, by hash; with its source when the server does not know it yet."""
        try:
            return await self.execute(command.parts)
        except Exception as error:
            if not self._is_noscript(error):
                raise
            return await self.execute(command.with_source())
