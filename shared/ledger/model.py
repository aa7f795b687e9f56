"""The executable specification of the ledger: what every verb does, in plain Python on plain integers.

The Lua does the same, step for step; a state machine in the tests holds one against the other. It also serves where a
test needs a ledger without a server. Nothing here is remembered shorter than for ever: `expires_at_ms` says when a
server may forget a row.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

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
)
from shared.redis_keys import shard_of

RESERVATION_KEPT_MS: Final = 48 * 3_600_000
WINDOW_KEPT_MS: Final = 8 * 24 * 3_600_000
NUMBER_MAX: Final = 2**53 - 1

TRANSITIONS: Final[frozenset[tuple[State, State]]] = frozenset(
    {
        ("none", "reserved"),
        ("none", "settled"),
        ("none", "released"),
        ("none", "recorded"),
        ("reserved", "settled"),
        ("reserved", "released"),
        ("reserved", "lapsed"),
        ("released", "settled"),
        ("lapsed", "trued_up"),
    }
)


@dataclass(slots=True)
class Budget:
    version: int
    limit: int
    deleted: bool
    highest: int = 0
    """The highest limit ever in force; see `check`."""


@dataclass(slots=True)
class Window:
    budget_id: str
    expires_at_ms: int | None
    settled: int = 0
    held: int = 0
    excess: int = 0
    """Money that no admission looked at: overruns of holds, spend without a hold, growth under a deleted budget."""
    lowered: int = 0
    """What true-ups took back."""


@dataclass(slots=True)
class Reservation:
    org_id: str
    state: State = "none"
    amount: int = 0
    charged: int = 0
    rank: int = 0
    lease_end_ms: int = 0
    scopes: tuple[Scope, ...] | None = None
    """The windows named at its birth; None when it had none (a tombstone, spend without a hold)."""
    draft: bytes = b""
    expires_at_ms: int | None = None


@dataclass(slots=True)
class Policy:
    version: int = 0
    body: bytes = b""


@dataclass(slots=True)
class Shard:
    """What Redis keeps under one hash tag."""

    epoch: bool = True
    seq: int = 0
    policy_versions: dict[str, int] = field(default_factory=dict)
    policies: dict[tuple[str, str], Policy] = field(default_factory=dict)
    budgets: dict[str, Budget] = field(default_factory=dict)
    windows: dict[str, Window] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)

    def wrote(self) -> int:
        self.seq += 1
        return self.seq

    def states(self, scopes: Sequence[Scope]) -> tuple[ScopeState, ...]:
        """What nobody published or touched yet counts as zero, and so does the limit of a deleted budget."""
        states = []
        for scope in scopes:
            budget, window = self.budgets.get(scope.budget_id), self.windows.get(scope.window_id)
            limit = 0 if budget is None or budget.deleted else budget.limit
            states.append(ScopeState(limit, window.settled if window else 0, window.held if window else 0))
        return tuple(states)

    def window(self, scope: Scope) -> Window:
        if scope.window_id not in self.windows:
            end = scope.window_end_ms
            self.windows[scope.window_id] = Window(scope.budget_id, end + WINDOW_KEPT_MS if end else None)
        return self.windows[scope.window_id]


class MemoryLedger:
    """The ledger as one object. `stream` is everything it appended, in order."""

    def __init__(self, clock: Clock) -> None:
        self.stream: list[StreamEntry] = []
        self.shards: defaultdict[int, Shard] = defaultdict(Shard)
        self._clock = clock
        self._seen: dict[tuple[int, str], tuple[int, int]] = {}
        self._seen_seq: dict[int, int] = {}

    def shard(self, org_id: str) -> Shard:
        return self.shards[shard_of(org_id)]

    def open_leases(self) -> dict[str, int]:
        """Reservation to lease end."""
        return {
            name: reservation.lease_end_ms
            for shard in self.shards.values()
            for name, reservation in shard.reservations.items()
            if reservation.state == "reserved"
        }

    # ------------------------------------------------------------------------------------------ verbs

    def reserve(self, verb: Reserve) -> ReserveReply:
        shard, now, known = self.shard(verb.org_id), self._clock.now_ms(), self._known(verb)
        if known.state == "reserved":
            if (known.amount, known.scopes) != (verb.amount, verb.scopes):
                return Conflict("reserved", known.amount)
            return Replay(now, known.amount, shard.states(verb.scopes))
        if known.state != "none":
            return Terminal(known.state)
        if not shard.epoch:
            return NoEpoch()
        current = shard.policy_versions.get(verb.org_id, 0)
        if verb.policy_version != current:
            return StalePolicy(current)
        for scope in verb.scopes:
            budget = shard.budgets.get(scope.budget_id)
            if budget is None:
                return NoLimit(scope.budget_id)
            if budget.deleted:
                return StalePolicy(current)
        before = shard.states(verb.scopes)
        if any(verb.amount > state.remaining for state in before):
            return Denied(now, before)
        self._become(verb, known, "reserved")
        known.amount, known.scopes, known.draft = verb.amount, verb.scopes, verb.draft
        known.lease_end_ms = now + verb.lease_ms
        self._hold(shard, verb.scopes, verb.amount)
        return Ok(now, shard.wrote(), shard.states(verb.scopes))

    def extend(self, verb: Extend) -> ExtendReply:
        shard, now, known = self.shard(verb.org_id), self._clock.now_ms(), self._known(verb)
        if known.state == "none":
            return Unknown()
        if known.state != "reserved":
            return Terminal(known.state)
        scopes = known.scopes or ()
        known.lease_end_ms = max(known.lease_end_ms, now + verb.lease_ms)
        seq = shard.wrote()
        if verb.add:
            for scope in scopes:
                if scope.budget_id not in shard.budgets:
                    return NoLimit(scope.budget_id)
            before = shard.states(scopes)
            enforcing = [not shard.budgets[scope.budget_id].deleted for scope in scopes]
            if any(on and verb.add > state.remaining for on, state in zip(enforcing, before, strict=True)):
                return Denied(now, before)
            known.amount += verb.add
            self._hold(shard, scopes, verb.add)
        return Ok(now, seq, shard.states(scopes))

    def settle(self, verb: Settle) -> SettleReply:
        now, known = self._clock.now_ms(), self._known(verb)
        if known.state in {"settled", "trued_up", "recorded"}:
            same = known.charged == verb.amount
            return Replay(now, known.charged) if same else Conflict(known.state, known.charged)
        if known.state == "lapsed":
            return self._end(verb, known, "trued_up", cost=verb.amount, rank=2, flags=("trued_up",), body=verb.event)
        rank = 3 if known.state == "released" else 2
        flags = {"none": ("hold_missing",), "released": ("late",)}.get(known.state, ())
        return self._end(verb, known, "settled", cost=verb.amount, rank=rank, flags=flags, body=verb.event)

    def release(self, verb: Release) -> ReleaseReply:
        now, known = self._clock.now_ms(), self._known(verb)
        if known.state == "released":
            return Replay(now, 0)
        if known.state in {"settled", "trued_up", "recorded"}:
            return Terminal(known.state)
        if known.state == "lapsed":
            return self._end(verb, known, "trued_up", cost=0, rank=2, flags=("trued_up",), body=verb.event)
        return self._end(verb, known, "released", cost=0, rank=2, flags=(), body=verb.event)

    def expire(self, verb: Expire) -> ExpireReply:
        known = self._known(verb)
        if known.state == "none":
            return Unknown()
        if known.state != "reserved":
            return Terminal(known.state)
        if not verb.force and self._clock.now_ms() < known.lease_end_ms:
            return Alive(known.lease_end_ms)
        return self._end(verb, known, "lapsed", cost=known.amount, rank=1, flags=("lapsed",), body=known.draft)

    def record(self, verb: Record) -> RecordReply:
        known = self._known(verb)
        if known.state == "none":
            return self._end(verb, known, "recorded", cost=verb.amount, rank=2, flags=(), body=verb.event)
        if known.state != "reserved" and known.charged == verb.amount:
            return Replay(self._clock.now_ms(), known.charged)
        return Conflict(known.state, known.amount if known.state == "reserved" else known.charged)

    def set_limit(self, verb: SetLimit) -> SetLimitReply:
        shard = self.shard(verb.org_id)
        row = shard.budgets.get(verb.budget_id)
        if row is not None and verb.version <= row.version:
            return OldVersion(row.version)
        highest = max(row.highest if row else 0, 0 if verb.deleted else verb.limit)
        shard.budgets[verb.budget_id] = Budget(verb.version, verb.limit, verb.deleted, highest)
        policy = shard.policies.setdefault((verb.org_id, verb.entity), Policy())
        if verb.policy_version >= policy.version:
            policy.version, policy.body = verb.policy_version, verb.definition
        if verb.policy_version > shard.policy_versions.get(verb.org_id, 0):
            shard.policy_versions[verb.org_id] = verb.policy_version
        return Ok(self._clock.now_ms(), shard.wrote())

    def read(self, verb: Read) -> ReadReply:
        shard = self.shard(verb.org_id)
        return Ok(self._clock.now_ms(), shard.seq, shard.states(verb.scopes))

    # ------------------------------------------------------------------------------------------ what verbs share

    def _known(self, verb: Reserve | Extend | Settle | Release | Expire | Record) -> Reservation:
        """The reservation of this id, or a new one in state `none`, stored only when it becomes something."""
        known = self.shard(verb.org_id).reservations.get(verb.id) or Reservation(verb.org_id)
        assert known.org_id == verb.org_id, "id of another organisation"
        budgets = [scope.budget_id for scope in verb.scopes]
        assert len(set(budgets)) == len(budgets), "a budget is charged once per call"
        return known

    def _become(self, verb: Reserve | Settle | Release | Expire | Record, known: Reservation, state: State) -> None:
        assert (known.state, state) in TRANSITIONS, "one end, and a true-up only after a lapse"
        known.state = state
        self.shard(verb.org_id).reservations[verb.id] = known

    def _hold(self, shard: Shard, scopes: Sequence[Scope], amount: int) -> None:
        assert 0 <= amount <= AMOUNT_MAX
        for scope in scopes:
            window, budget = shard.window(scope), shard.budgets[scope.budget_id]
            window.held += amount
            if budget.deleted:
                window.excess += amount
            assert budget.deleted or window.settled + window.held <= budget.limit, "admission"

    def _end(
        self,
        verb: Settle | Release | Expire | Record,
        known: Reservation,
        state: State,
        *,
        cost: int,
        rank: int,
        flags: tuple[str, ...],
        body: bytes,
    ) -> Ok:
        """The only place where money is booked, and the only one that appends an event: both, or neither.

        A reservation moves the windows named at its birth, whatever the verb names; without a birth, the verb's.
        """
        shard, now = self.shard(verb.org_id), self._clock.now_ms()
        scopes = verb.scopes if known.scopes is None else known.scopes
        held = known.amount if known.state == "reserved" else 0
        charged = known.charged if known.state == "lapsed" else 0
        tombstone = known.state == "none" and state == "released"
        for scope in () if tombstone else scopes:
            window = shard.window(scope)
            window.held -= held
            window.settled += cost - charged
            window.excess += max(0, cost - charged - held)
            window.lowered += max(0, charged - cost)
        self._become(verb, known, state)
        known.charged, known.rank, known.expires_at_ms = cost, rank, now + RESERVATION_KEPT_MS
        windows = tuple(scope.window_id for scope in scopes)
        self.stream.append(StreamEntry(verb.id, verb.org_id, rank, cost, now, windows, flags, body))
        return Ok(now, shard.wrote())

    # ------------------------------------------------------------------------------------------ invariants

    def check(self) -> None:
        """What must hold after every verb, whoever called it, in whatever order."""
        costs = self._current_costs()
        for index, shard in self.shards.items():
            self._check_sums(index, shard, costs)
            self._check_windows(index, shard)
            self._check_reservations(shard)

    def _current_costs(self) -> dict[tuple[int, str], StreamEntry]:
        """Of all statements about a call the one with the highest rank; no two have the same."""
        current: dict[tuple[int, str], StreamEntry] = {}
        for entry in self.stream:
            key = shard_of(entry.org_id), entry.event_id
            assert key not in current or entry.rank > current[key].rank
            current[key] = entry
        return current

    def _check_sums(self, index: int, shard: Shard, costs: dict[tuple[int, str], StreamEntry]) -> None:
        """Held is what is reserved; settled is what the events say, in full, whatever the limit."""
        held: defaultdict[str, int] = defaultdict(int)
        settled: defaultdict[str, int] = defaultdict(int)
        for reservation in shard.reservations.values():
            for scope in (reservation.scopes or ()) if reservation.state == "reserved" else ():
                held[scope.window_id] += reservation.amount
        for (entry_shard, _), entry in costs.items():
            for window_id in entry.windows if entry_shard == index else ():
                settled[window_id] += entry.cost
        for window_id in shard.windows.keys() | held.keys() | {name for name, cost in settled.items() if cost}:
            window = shard.windows[window_id]
            assert (window.held, window.settled) == (held[window_id], settled[window_id]), window_id

    def _check_windows(self, index: int, shard: Shard) -> None:
        """No negatives, nothing beyond an exact number, nothing lowered but by a true-up, no overrun unaccounted."""
        assert shard.seq >= self._seen_seq.get(index, 0)
        self._seen_seq[index] = shard.seq
        for window_id, window in shard.windows.items():
            assert 0 <= window.held <= NUMBER_MAX
            assert 0 <= window.settled <= NUMBER_MAX
            settled, lowered = self._seen.get((index, window_id), (0, 0))
            assert window.settled >= settled - (window.lowered - lowered)
            self._seen[index, window_id] = window.settled, window.lowered
            budget = shard.budgets.get(window.budget_id)
            assert window.settled + window.held <= (budget.highest if budget else 0) + window.excess

    def _check_reservations(self, shard: Shard) -> None:
        """A live reservation is remembered without end, an ended one holds nothing and has said so once."""
        for reservation in shard.reservations.values():
            assert reservation.state != "none"
            assert (reservation.state == "reserved") == (reservation.expires_at_ms is None)
            assert (reservation.state == "reserved") == (reservation.rank == 0)
