"""The model and the Lua in lock-step: any verbs, in any order, with colliding ids and a jumping clock.

After every step the replies, every key and every stream entry of a real server must be the model's, and the model's
invariants must hold. HYPOTHESIS_PROFILE=large runs for minutes instead of seconds.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.clock import ManualClock, SystemClock
from shared.ledger import (
    Denied,
    Expire,
    Extend,
    Ok,
    Read,
    Record,
    Release,
    Reply,
    Reserve,
    Scope,
    SetLimit,
    Settle,
    Verb,
)
from shared.redis_keys import shard_of
from tests.ledger_verbs import server_client
from tests.ledgers import InMemory, OnServer, dump, picture_of

ORG = "org_a"
NEIGHBOUR = next(name for name in (f"org_b{n}" for n in range(10_000)) if shard_of(name) == shard_of(ORG))
"""Another organisation on the same shard, with budgets and ids of its own."""

IDS = 8
WINDOW_MS = {"forever": 0, "short": 10_000, "longer": 45_000}
EXAMPLES = {"ci": 100, "large": 1_000}
PROFILE = settings(
    max_examples=EXAMPLES[os.environ.get("HYPOTHESIS_PROFILE", "ci")],
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

orgs = st.sampled_from([ORG, ORG, ORG, NEIGHBOUR])
ids = st.integers(0, 5)
endable = st.sampled_from(["reserved", "reserved", "lapsed", "released", "settled trued_up recorded", "none"])
amounts = st.one_of(st.integers(0, 9), st.sampled_from([0, 1, 5, 25, 60, 10**12]))
limits = st.one_of(st.integers(0, 100), st.sampled_from([0, 60, 10**6, 2**53 - 1]))
leases = st.sampled_from([0, 500, 20_000, 20_000])
bodies = st.binary(max_size=6)
places = st.lists(
    st.tuples(st.sampled_from(sorted(WINDOW_MS)), st.sampled_from(["-", "acme corp"])),
    max_size=3,
    unique_by=lambda place: place[0],
)
others = st.one_of(st.none(), places)


class Lockstep(RuleBasedStateMachine):
    client: Any
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.clock = ManualClock(SystemClock().now_ms())
        self.memory = InMemory(self.clock)
        self.server = OnServer(self.client, self.clock)
        self.model = self.memory.model
        self.publications = 0
        self.sent: list[Verb] = []
        self.last, self.appended = "-", 0

    # -------------------------------------------------------------------------------------- what a step does

    def both(self, verb: Verb) -> Reply:
        before = self._windows()
        expected, seen = self.memory.send(verb), self.server.send(verb)
        assert seen == expected, verb
        if not isinstance(expected, Ok):
            assert self._windows() == before, "a refused verb moved money"
        if not isinstance(verb, SetLimit):
            self.sent.append(verb)
        return expected

    def _windows(self) -> dict[str, tuple[int, int]]:
        return {name: (window.settled, window.held) for name, window in self.model.shard(ORG).windows.items()}

    def scopes(self, org: str, chosen: list[tuple[str, str]]) -> tuple[Scope, ...]:
        scopes = []
        for budget, value in chosen:
            length = WINDOW_MS[budget]
            start = self.clock.now_ms() // length * length if length else 0
            scopes.append(Scope(f"{org}_{budget}", value, start, start + length if length else 0))
        return tuple(scopes)

    def named(self, org: str, number: int, wanted: str) -> str:
        """An id in a state that is worth the verb, if there is one."""
        names = [f"{org}_{n}" for n in range(IDS)]
        known = self.model.shard(org).reservations
        fitting = [name for name in names if (known[name].state if name in known else "none") in wanted.split()]
        return (fitting or names)[number % len(fitting or names)]

    def places_of(self, name: str, org: str, chosen: list[tuple[str, str]] | None) -> tuple[Scope, ...]:
        """The windows of its birth (None), or whatever was drawn."""
        known = self.model.shard(org).reservations.get(name)
        if chosen is None and known is not None and known.scopes is not None:
            return known.scopes
        return self.scopes(org, chosen or [])

    # -------------------------------------------------------------------------------------- rules

    @initialize(first=limits, second=limits, third=limits)
    def begin(self, first: int, second: int, third: int) -> None:
        self.server.set_epoch(ORG, present=True)
        assert self.model.shard(ORG).epoch
        self.both(SetLimit(ORG, f"{ORG}_forever", 1, first, False, 1, "org:a", b"[1]"))
        self.both(SetLimit(ORG, f"{ORG}_short", 1, second, False, 1, "org:a", b"[1,2]"))
        self.both(SetLimit(ORG, f"{ORG}_longer", 1, third, False, 1, "customer:acme", b"[3]"))
        self.both(SetLimit(NEIGHBOUR, f"{NEIGHBOUR}_short", 1, first, False, 1, "org:b", b"[4]"))

    @rule(milliseconds=st.sampled_from([1, 400, 501, 9_000, 20_000, 60_000, 3_600_000, -1, -3_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @rule()
    def the_server_forgets_its_scripts(self) -> None:
        self.client.script_flush()

    @rule(number=ids, chosen=places, amount=amounts)
    def reserve_without_an_epoch(self, number: int, chosen: list[tuple[str, str]], amount: int) -> None:
        self.memory.set_epoch(ORG, present=False)
        self.server.set_epoch(ORG, present=False)
        self.reserve(org=ORG, number=number, chosen=chosen, amount=amount, lease=1, draft=b"", age=0)
        self.memory.set_epoch(ORG, present=True)
        self.server.set_epoch(ORG, present=True)

    @rule(
        org=orgs,
        number=ids,
        chosen=places,
        amount=amounts,
        lease=leases,
        draft=bodies,
        age=st.sampled_from([0, 0, 0, 0, 0, 1]),
    )
    def reserve(
        self,
        *,
        org: str,
        number: int,
        chosen: list[tuple[str, str]],
        amount: int,
        lease: int,
        draft: bytes,
        age: int,
    ) -> None:
        name = self.named(org, number, "none")
        version = max(0, self.model.shard(org).policy_versions.get(org, 0) - age)
        reply = self.both(Reserve(name, org, version, amount, self.scopes(org, chosen), lease, draft))
        if isinstance(reply, Ok):
            assert all(state.remaining >= 0 for state in reply.scopes)
        if isinstance(reply, Denied):
            assert any(state.remaining < amount for state in reply.scopes)

    @rule(number=ids, chosen=places, amount=amounts, draft=bodies)
    def a_call_lapses(self, number: int, chosen: list[tuple[str, str]], amount: int, draft: bytes) -> None:
        self.reserve(org=ORG, number=number, chosen=chosen, amount=amount, lease=500, draft=draft, age=0)
        self.expire(org=ORG, number=number, chosen=None, force=True)

    @rule(org=orgs, number=ids, chosen=others, add=amounts, lease=leases)
    def extend(self, *, org: str, number: int, chosen: list[tuple[str, str]] | None, add: int, lease: int) -> None:
        name = self.named(org, number, "reserved")
        self.both(Extend(name, org, add, self.places_of(name, org, chosen), lease))

    @rule(org=orgs, number=ids, chosen=others, amount=amounts, event=bodies, wanted=endable)
    def settle(
        self,
        *,
        org: str,
        number: int,
        chosen: list[tuple[str, str]] | None,
        amount: int,
        event: bytes,
        wanted: str,
    ) -> None:
        name = self.named(org, number, wanted)
        self.both(Settle(name, org, amount, self.places_of(name, org, chosen), event))

    @rule(org=orgs, number=ids, chosen=others, event=bodies, wanted=endable)
    def release(
        self, *, org: str, number: int, chosen: list[tuple[str, str]] | None, event: bytes, wanted: str
    ) -> None:
        name = self.named(org, number, wanted)
        self.both(Release(name, org, self.places_of(name, org, chosen), event))

    @rule(org=orgs, number=ids, chosen=others, force=st.booleans())
    def expire(self, org: str, number: int, chosen: list[tuple[str, str]] | None, force: bool) -> None:
        name = self.named(org, number, "reserved")
        self.both(Expire(name, org, self.places_of(name, org, chosen), force))

    @rule(org=orgs, number=ids, chosen=places, amount=amounts, event=bodies, wanted=endable)
    def record(
        self, *, org: str, number: int, chosen: list[tuple[str, str]], amount: int, event: bytes, wanted: str
    ) -> None:
        name = self.named(org, number, wanted)
        self.both(Record(name, org, amount, self.scopes(org, chosen), event))

    @precondition(lambda self: self.publications < 8)
    @rule(
        org=orgs,
        budget=st.sampled_from(sorted(WINDOW_MS)),
        newer=st.integers(-1, 2),
        limit=limits,
        deleted=st.sampled_from([False, False, False, True]),
        policy=st.integers(-1, 1),
        entity=st.sampled_from(["org:a", "customer:acme"]),
        definition=bodies,
    )
    def set_limit(
        self,
        *,
        org: str,
        budget: str,
        newer: int,
        limit: int,
        deleted: bool,
        policy: int,
        entity: str,
        definition: bytes,
    ) -> None:
        self.publications += 1
        shard, name = self.model.shard(org), f"{org}_{budget}"
        version = max(0, newer + (shard.budgets[name].version if name in shard.budgets else 0))
        policy_version = max(0, policy + shard.policy_versions.get(org, 0))
        self.both(SetLimit(org, name, version, limit, deleted, policy_version, entity, definition))

    @rule(org=orgs, chosen=places)
    def read(self, org: str, chosen: list[tuple[str, str]]) -> None:
        self.both(Read(org, self.scopes(org, chosen)))

    @rule(back=st.integers(1, 12))
    def a_verb_arrives_again(self, back: int) -> None:
        if self.sent:
            self.both(self.sent[-min(back, len(self.sent))])

    # -------------------------------------------------------------------------------------- after every step

    @invariant()
    def the_invariants_hold(self) -> None:
        type(self).steps += 1
        self.model.check()

    @invariant()
    def the_server_holds_what_the_model_holds(self) -> None:
        assert dump(self.client) == picture_of(self.model)
        self.last, new = self.server.stream_after(ORG, self.last)
        assert new == self.model.stream[self.appended :]
        self.appended += len(new)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with server_client() as client:
        yield client


@pytest.mark.timeout(900)
def test_the_lua_does_what_the_model_says(client: Any, record_property: Any) -> None:
    Lockstep.client = client
    run_state_machine_as_test(Lockstep, settings=PROFILE)
    record_property("steps", Lockstep.steps)
    print(f"{Lockstep.steps} steps")
