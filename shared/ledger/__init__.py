"""The ledger protocol: what may be asked of it and what it answers. It moves money and nothing else does.

    (none) ── reserve ──> reserved ── settle ──> settled
                              │  └──── release ─> released
                              └─ lease over ────> lapsed ── settle/release ──> trued_up

`model` is the executable specification in plain Python, `redis` drives the Lua verbs on a server; a state machine in
the tests holds one against the other, step for step. All amounts are integer microdollars, all times Redis
milliseconds. Both sides of the protocol are values: no I/O happens in this package.
"""

from dataclasses import dataclass
from typing import Literal

State = Literal["none", "reserved", "settled", "released", "lapsed", "trued_up", "recorded"]

AMOUNT_MAX = 10**12
"""The largest amount one verb moves: a million dollars."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One budget window that a call is held and charged in.

    `value` is `-` for an ordinary budget; a template (`customer:*`) has one window per distinct value.
    `window_end_ms` is 0 for a window that never ends; it only decides how long Redis keeps the counters.
    """

    budget_id: str
    value: str
    window_start_ms: int
    window_end_ms: int

    @property
    def window_id(self) -> str:
        return f"{self.budget_id}:{self.window_start_ms}:{self.value}"


@dataclass(frozen=True, slots=True)
class ScopeState:
    """A window's numbers as the verb saw them: before its own hold on a refusal, after it on an admission."""

    limit: int
    settled: int
    held: int

    @property
    def remaining(self) -> int:
        return self.limit - self.settled - self.held


# ---------------------------------------------------------------------------------------------- what verbs are asked


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold `amount` in every scope, or in none. `draft` is the event that is booked should the hold lapse."""

    id: str
    org_id: str
    policy_version: int
    amount: int
    scopes: tuple[Scope, ...]
    lease_ms: int
    draft: bytes


@dataclass(frozen=True, slots=True)
class Extend:
    """Renew the lease (always, while reserved) and add `add` to the hold in every scope, or in none."""

    id: str
    org_id: str
    add: int
    scopes: tuple[Scope, ...]
    lease_ms: int


@dataclass(frozen=True, slots=True)
class Settle:
    """End the reservation at `amount`, its actual cost, and append the cost event. Never asks whether it fits."""

    id: str
    org_id: str
    amount: int
    scopes: tuple[Scope, ...]
    event: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """End the reservation at nothing and append a zero-cost call record. Unknown ids leave a tombstone."""

    id: str
    org_id: str
    scopes: tuple[Scope, ...]
    event: bytes


@dataclass(frozen=True, slots=True)
class Expire:
    """End a reservation whose lease is over: the hold is charged, with the draft as its event (rank 1)."""

    id: str
    org_id: str
    scopes: tuple[Scope, ...]
    force: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Book spend that had no hold, once per id."""

    id: str
    org_id: str
    amount: int
    scopes: tuple[Scope, ...]
    event: bytes


@dataclass(frozen=True, slots=True)
class SetLimit:
    """Publish one budget: its limit, its entity's definition and the organisation's policy version, atomically.

    An older `version` than the stored one changes nothing of the budget. A deleted budget keeps its row, so that a
    late, older publication cannot bring it back.
    """

    org_id: str
    budget_id: str
    version: int
    limit: int
    deleted: bool
    policy_version: int
    entity: str
    definition: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """The numbers of windows, without changing them. A window nobody touched reads as zeros."""

    org_id: str
    scopes: tuple[Scope, ...]


Verb = Reserve | Extend | Settle | Release | Expire | Record | SetLimit | Read

# ---------------------------------------------------------------------------------------------- what verbs answer


@dataclass(frozen=True, slots=True)
class Ok:
    """The verb did what it says. `now_ms` is the ledger's clock, `seq` its write counter (rises, never falls).

    `scopes` are told by reserve, extend and read; the other verbs do not look at limits.
    """

    now_ms: int
    seq: int
    scopes: tuple[ScopeState, ...] = ()


@dataclass(frozen=True, slots=True)
class Replay:
    """The same verb with the same id was done before; nothing moved. `amount` is what it moved then."""

    now_ms: int
    amount: int
    scopes: tuple[ScopeState, ...] = ()


@dataclass(frozen=True, slots=True)
class Denied:
    """At least one scope does not carry the amount; nothing moved. `scopes` are all of them, in order."""

    now_ms: int
    scopes: tuple[ScopeState, ...]


@dataclass(frozen=True, slots=True)
class StalePolicy:
    """The caller decided with an older policy version than the one in force: reload and ask again."""

    current: int


@dataclass(frozen=True, slots=True)
class NoEpoch:
    """The ledger was emptied and not rebuilt yet: nothing may be admitted."""


@dataclass(frozen=True, slots=True)
class NoLimit:
    """A scope's budget has no published limit. Never read as "no budget"."""

    budget_id: str


@dataclass(frozen=True, slots=True)
class Terminal:
    """The reservation already ended in `state`; nothing moved."""

    state: State


@dataclass(frozen=True, slots=True)
class Conflict:
    """The id was used with another amount; nothing moved."""

    state: State
    amount: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no such reservation."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The lease is not over: nothing to expire."""

    lease_end_ms: int


@dataclass(frozen=True, slots=True)
class OldVersion:
    """A newer definition of the budget is already published."""

    current: int


ReserveReply = Ok | Replay | Denied | StalePolicy | NoEpoch | NoLimit | Terminal | Conflict
ExtendReply = Ok | Denied | Terminal | Unknown | NoLimit
SettleReply = Ok | Replay | Conflict
ReleaseReply = Ok | Replay | Terminal
ExpireReply = Ok | Alive | Terminal | Unknown
RecordReply = Ok | Replay | Conflict
SetLimitReply = Ok | OldVersion
ReadReply = Ok

Reply = Ok | Replay | Denied | StalePolicy | NoEpoch | NoLimit | Terminal | Conflict | Unknown | Alive | OldVersion

# ---------------------------------------------------------------------------------------------- what it appends


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry of the event stream: an absolute statement "call `event_id` costs `cost` now, at rank `rank`".

    Rank orders statements about the same call: lapsed 1 < settled, released, recorded, trued up 2 < a settle that came
    after a release 3. A reader keeps the highest rank and moves its sums by the difference, so repetition and
    reordering change nothing.
    `flags` are the ledger's own: `lapsed`, `hold_missing`, `late`, `trued_up`. `windows` are window ids.
    """

    event_id: str
    org_id: str
    rank: int
    cost: int
    booked_at_ms: int
    windows: tuple[str, ...]
    flags: tuple[str, ...]
    body: bytes
