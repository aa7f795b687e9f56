"""One test per cell of the table of states, against the model and against the Lua."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared.clock import ManualClock, SystemClock
from shared.ledger import (
    Alive,
    Conflict,
    Denied,
    NoLimit,
    Ok,
    Replay,
    ScopeState,
    State,
    StreamEntry,
    Terminal,
    Unknown,
)
from tests.ledger_verbs import (
    BOOKED,
    BOTH,
    CUSTOMER,
    ENDED,
    LEASE_MS,
    MONTH,
    ORG,
    brought_to,
    expire,
    extend,
    last,
    new_ledger,
    numbers,
    publish,
    record,
    release,
    reserve,
    server_client,
    settle,
)
from tests.ledgers import AnyLedger


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with server_client() as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().now_ms())


@pytest.fixture(params=["model", "lua"])
def ledger(request: pytest.FixtureRequest, clock: ManualClock, server: Any) -> AnyLedger:
    return new_ledger(request.param, server, clock)


# ------------------------------------------------------------------------------------------ reserve


def test_reserving_again_in_the_same_way_is_a_replay(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    clock.advance(5)
    assert ledger.send(reserve(100)) == Replay(clock.now_ms(), 100, (ScopeState(1000, 0, 100),))
    assert numbers(ledger) == (0, 100)


@pytest.mark.parametrize("changes", [{"amount": 99}, {"scopes": (CUSTOMER,)}, {"scopes": ()}], ids=str)
def test_reserving_again_in_another_way_is_a_conflict(
    ledger: AnyLedger, clock: ManualClock, changes: dict[str, Any]
) -> None:
    brought_to(ledger, clock, "reserved")
    assert ledger.send(replace(reserve(100), **changes)) == Conflict("reserved", 100)


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_id_is_never_reserved_again(ledger: AnyLedger, clock: ManualClock, state: State) -> None:
    brought_to(ledger, clock, state)
    before = numbers(ledger)
    assert ledger.send(reserve(100)) == Terminal(state)
    assert numbers(ledger) == before


def test_a_release_before_the_reserve_bars_it(ledger: AnyLedger) -> None:
    publish(ledger, 1000)
    assert isinstance(ledger.send(release()), Ok)
    assert ledger.send(reserve(100)) == Terminal("released")
    assert numbers(ledger) == (0, 0)


# ------------------------------------------------------------------------------------------ extend


def test_extending_what_nobody_reserved_is_unknown(ledger: AnyLedger) -> None:
    assert ledger.send(extend(1)) == Unknown()


def test_extending_adds_to_the_hold_and_renews_the_lease(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    clock.advance(LEASE_MS - 1)
    reply = ledger.send(extend(900))
    assert isinstance(reply, Ok)
    assert reply.scopes == (ScopeState(1000, 0, 1000),)
    clock.advance(LEASE_MS - 1)
    assert ledger.send(expire()) == Alive(clock.now_ms() + 1)


def test_an_extension_that_does_not_fit_still_renews_the_lease(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    clock.advance(1000)
    reply = ledger.send(extend(901))
    assert isinstance(reply, Denied)
    assert reply.scopes == (ScopeState(1000, 0, 100),)
    assert ledger.send(expire()) == Alive(clock.now_ms() + LEASE_MS)


def test_a_renewal_asks_for_nothing_and_passes_in_debt_and_without_a_limit(
    ledger: AnyLedger, clock: ManualClock
) -> None:
    brought_to(ledger, clock, "reserved")
    publish(ledger, 0, version=2)
    assert isinstance(ledger.send(extend(0)), Ok)
    ledger.lose_limit(ORG, "monthly")
    assert isinstance(ledger.send(extend(0)), Ok)
    assert numbers(ledger) == (0, 100)


def test_a_hold_does_not_grow_without_a_limit(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    ledger.lose_limit(ORG, "monthly")
    clock.advance(7)
    assert ledger.send(extend(1)) == NoLimit("monthly")
    assert numbers(ledger) == (0, 100)
    assert ledger.send(expire()) == Alive(clock.now_ms() + LEASE_MS)


def test_of_several_missing_limits_the_first_is_named(ledger: AnyLedger) -> None:
    publish(ledger, 1000)
    publish(ledger, 1000, "customer")
    ledger.send(reserve(100, scopes=BOTH))
    for scope in BOTH:
        ledger.lose_limit(ORG, scope.budget_id)
    assert ledger.send(extend(1)) == NoLimit("monthly")


def test_a_budget_deleted_meanwhile_does_not_cut_a_running_call(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    publish(ledger, 1000, version=2, deleted=True)
    assert isinstance(ledger.send(extend(5000)), Ok)
    assert numbers(ledger) == (0, 5100)


def test_a_renewal_never_shortens_a_lease(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    assert isinstance(ledger.send(extend(0, lease_ms=1)), Ok)
    assert ledger.send(expire()) == Alive(clock.now_ms() + LEASE_MS)


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_call_gets_no_more_money(ledger: AnyLedger, clock: ManualClock, state: State) -> None:
    brought_to(ledger, clock, state)
    assert ledger.send(extend(1)) == Terminal(state)
    assert numbers(ledger) == (BOOKED[state], 0)


# ------------------------------------------------------------------------------------------ settle


def test_settling_what_nobody_reserved_books_it_where_the_caller_says(ledger: AnyLedger, clock: ManualClock) -> None:
    reply = ledger.send(settle(70))
    assert isinstance(reply, Ok)
    assert numbers(ledger) == (70, 0)
    window = MONTH.window_id
    assert last(ledger) == StreamEntry("call", ORG, 2, 70, clock.now_ms(), (window,), ("hold_missing",), b"settled")


@pytest.mark.parametrize("actual", [0, 70, 100, 1500])
def test_settling_moves_the_hold_to_the_actual_cost_whatever_the_limit(
    ledger: AnyLedger, clock: ManualClock, actual: int
) -> None:
    brought_to(ledger, clock, "reserved")
    assert isinstance(ledger.send(settle(actual)), Ok)
    assert numbers(ledger) == (actual, 0)
    assert last(ledger) == StreamEntry("call", ORG, 2, actual, clock.now_ms(), (MONTH.window_id,), (), b"settled")


@pytest.mark.parametrize("state", ["settled", "trued_up", "recorded"])
def test_settling_again_at_the_same_cost_is_a_replay_and_at_another_a_conflict(
    ledger: AnyLedger, clock: ManualClock, state: State
) -> None:
    brought_to(ledger, clock, state)
    entries = len(ledger.stream(ORG))
    assert ledger.send(settle(70)) == Replay(clock.now_ms(), 70)
    assert ledger.send(settle(71)) == Conflict(state, 70)
    assert numbers(ledger) == (70, 0)
    assert len(ledger.stream(ORG)) == entries


def test_a_settle_after_the_release_is_booked_late_and_outranks_it(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "released")
    assert isinstance(ledger.send(settle(70)), Ok)
    assert numbers(ledger) == (70, 0)
    assert (last(ledger).rank, last(ledger).flags) == (3, ("late",))


def test_a_settle_after_a_tombstone_is_booked_where_the_settle_says(ledger: AnyLedger) -> None:
    ledger.send(release(scopes=()))
    assert isinstance(ledger.send(settle(70, scopes=(CUSTOMER,))), Ok)
    assert numbers(ledger, CUSTOMER) == (70, 0)


@pytest.mark.parametrize("actual", [0, 40, 100, 400])
def test_a_settle_after_the_lapse_corrects_the_charge_to_the_actual_cost(
    ledger: AnyLedger, clock: ManualClock, actual: int
) -> None:
    brought_to(ledger, clock, "lapsed")
    assert numbers(ledger) == (100, 0)
    assert isinstance(ledger.send(settle(actual)), Ok)
    assert numbers(ledger) == (actual, 0)
    assert (last(ledger).rank, last(ledger).cost, last(ledger).flags) == (2, actual, ("trued_up",))


# ------------------------------------------------------------------------------------------ release


def test_releasing_gives_the_hold_back_and_says_so_in_a_zero_cost_event(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    assert isinstance(ledger.send(release()), Ok)
    assert numbers(ledger) == (0, 0)
    assert last(ledger) == StreamEntry("call", ORG, 2, 0, clock.now_ms(), (MONTH.window_id,), (), b"released")


def test_releasing_what_nobody_reserved_leaves_a_tombstone_and_an_event(ledger: AnyLedger) -> None:
    assert isinstance(ledger.send(release()), Ok)
    assert (last(ledger).rank, last(ledger).cost) == (2, 0)


def test_releasing_again_is_a_replay(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "released")
    assert ledger.send(release()) == Replay(clock.now_ms(), 0)
    assert len(ledger.stream(ORG)) == 1


@pytest.mark.parametrize("state", ["settled", "trued_up", "recorded"])
def test_a_booked_cost_is_not_released(ledger: AnyLedger, clock: ManualClock, state: State) -> None:
    brought_to(ledger, clock, state)
    assert ledger.send(release()) == Terminal(state)
    assert numbers(ledger) == (70, 0)


def test_a_release_after_the_lapse_takes_the_whole_charge_back(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "lapsed")
    assert isinstance(ledger.send(release()), Ok)
    assert numbers(ledger) == (0, 0)
    assert (last(ledger).rank, last(ledger).cost, last(ledger).flags) == (2, 0, ("trued_up",))
    assert ledger.send(release()) == Terminal("trued_up")
    assert ledger.send(settle(0)) == Replay(clock.now_ms(), 0)


# ------------------------------------------------------------------------------------------ expire


def test_expiring_what_nobody_reserved_is_unknown(ledger: AnyLedger) -> None:
    assert ledger.send(expire()) == Unknown()


def test_a_lease_lives_to_its_last_millisecond(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    end = clock.now_ms() + LEASE_MS
    clock.advance(LEASE_MS - 1)
    assert ledger.send(expire()) == Alive(end)
    clock.advance(1)
    assert isinstance(ledger.send(expire()), Ok)


def test_a_lapse_charges_the_hold_with_the_draft_as_its_event(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "lapsed")
    assert numbers(ledger) == (100, 0)
    assert last(ledger) == StreamEntry("call", ORG, 1, 100, clock.now_ms(), (MONTH.window_id,), ("lapsed",), b"draft")


def test_force_ends_a_live_lease(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    assert isinstance(ledger.send(expire(force=True)), Ok)
    assert numbers(ledger) == (100, 0)


@pytest.mark.parametrize("state", ENDED)
def test_an_ended_call_does_not_expire(ledger: AnyLedger, clock: ManualClock, state: State) -> None:
    brought_to(ledger, clock, state)
    clock.advance(LEASE_MS)
    assert ledger.send(expire(force=True)) == Terminal(state)
    assert numbers(ledger) == (BOOKED[state], 0)


# ------------------------------------------------------------------------------------------ record


def test_spend_without_a_hold_is_booked_once_per_id(ledger: AnyLedger, clock: ManualClock) -> None:
    assert isinstance(ledger.send(record(70)), Ok)
    assert ledger.send(record(70)) == Replay(clock.now_ms(), 70)
    assert ledger.send(record(71)) == Conflict("recorded", 70)
    assert numbers(ledger) == (70, 0)
    assert ledger.stream(ORG) == [StreamEntry("call", ORG, 2, 70, clock.now_ms(), (MONTH.window_id,), (), b"recorded")]


@pytest.mark.parametrize("state", ENDED)
def test_recording_an_ended_call_is_a_replay_at_its_cost_and_a_conflict_at_another(
    ledger: AnyLedger, clock: ManualClock, state: State
) -> None:
    brought_to(ledger, clock, state)
    assert ledger.send(record(BOOKED[state])) == Replay(clock.now_ms(), BOOKED[state])
    assert ledger.send(record(1)) == Conflict(state, BOOKED[state])


def test_recording_a_call_that_is_held_is_a_conflict(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    assert ledger.send(record(100)) == Conflict("reserved", 100)
    assert numbers(ledger) == (0, 100)
