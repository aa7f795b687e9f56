"""What is admitted, published and read, and whose windows move, against the model and against the Lua."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared.clock import ManualClock, SystemClock
from shared.ledger import (
    Denied,
    Expire,
    Extend,
    NoEpoch,
    NoLimit,
    Ok,
    OldVersion,
    Read,
    Release,
    ScopeState,
    Settle,
    StalePolicy,
)
from tests.ledger_verbs import (
    BOTH,
    CUSTOMER,
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
from tests.ledgers import AnyLedger, scope


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


# ------------------------------------------------------------------------------------------ admission


@pytest.mark.parametrize(
    ("amount", "fits"), [(0, True), (150, True), (151, False), (401, False), (1001, False)], ids=str
)
def test_a_hold_is_admitted_up_to_what_remains(ledger: AnyLedger, amount: int, fits: bool) -> None:
    publish(ledger, 1000)
    ledger.send(record(600, "spent"))
    ledger.send(reserve(250, "other"))
    reply = ledger.send(reserve(amount))
    if fits:
        assert isinstance(reply, Ok)
        assert reply.scopes == (ScopeState(1000, 600, 250 + amount),)
        assert reply.scopes[0].remaining == 150 - amount
    else:
        assert isinstance(reply, Denied)
        assert reply.scopes == (ScopeState(1000, 600, 250),)
        assert numbers(ledger) == (600, 250)


def test_a_limit_of_zero_admits_what_costs_nothing_and_nothing_else(ledger: AnyLedger) -> None:
    publish(ledger, 0)
    assert isinstance(ledger.send(reserve(0, "free")), Ok)
    assert isinstance(ledger.send(reserve(1)), Denied)


def test_debt_refuses_the_smallest_call(ledger: AnyLedger) -> None:
    publish(ledger, 1000)
    ledger.send(record(1200, "spent"))
    reply = ledger.send(reserve(1))
    assert isinstance(reply, Denied)
    assert reply.scopes[0].remaining == -200


def test_one_refusing_scope_of_two_moves_neither_and_both_are_told(ledger: AnyLedger) -> None:
    publish(ledger, 1000)
    publish(ledger, 99, "customer")
    reply = ledger.send(reserve(100, scopes=BOTH))
    assert isinstance(reply, Denied)
    assert reply.scopes == (ScopeState(1000, 0, 0), ScopeState(99, 0, 0))
    assert numbers(ledger) == numbers(ledger, CUSTOMER) == (0, 0)
    assert isinstance(ledger.send(settle(5)), Ok), "a refused id was never taken"


def test_a_call_of_no_budget_is_admitted_and_still_remembered(ledger: AnyLedger) -> None:
    publish(ledger, 0)
    assert isinstance(ledger.send(reserve(10**12, scopes=())), Ok)
    assert isinstance(ledger.send(settle(3, scopes=())), Ok)
    assert last(ledger).windows == ()


def test_an_older_policy_is_stale_and_an_unpublished_one_is_version_zero(ledger: AnyLedger) -> None:
    assert ledger.send(reserve(1)) == StalePolicy(0)
    publish(ledger, 1000, policy_version=7)
    assert ledger.send(reserve(1)) == StalePolicy(7)
    assert isinstance(ledger.send(reserve(1, policy_version=7)), Ok)


def test_nothing_is_admitted_without_an_epoch(ledger: AnyLedger) -> None:
    publish(ledger, 1000)
    ledger.set_epoch(ORG, present=False)
    assert ledger.send(reserve(1)) == NoEpoch()


def test_a_missing_limit_is_named_and_never_read_as_no_budget(ledger: AnyLedger) -> None:
    publish(ledger, 1000)
    assert ledger.send(reserve(1, scopes=BOTH)) == NoLimit("customer")
    assert numbers(ledger) == (0, 0)


def test_a_deleted_budget_makes_the_callers_policy_stale(ledger: AnyLedger) -> None:
    publish(ledger, 1000)
    publish(ledger, 1000, version=2, deleted=True)
    assert ledger.send(reserve(1)) == StalePolicy(1)


# ------------------------------------------------------------------------------------------ windows, limits, reads


@pytest.mark.parametrize("scopes", [(), (CUSTOMER,), (CUSTOMER, MONTH), (scope("monthly", start=5),)], ids=len)
@pytest.mark.parametrize("ending", ["settle", "release", "expire", "extend"])
def test_a_reservation_moves_the_windows_of_its_birth_whatever_the_caller_believes(
    ledger: AnyLedger, clock: ManualClock, scopes: tuple[Any, ...], ending: str
) -> None:
    brought_to(ledger, clock, "reserved")
    verbs: dict[str, Settle | Release | Expire | Extend] = {
        "settle": settle(70),
        "release": release(),
        "expire": expire(force=True),
        "extend": extend(5),
    }
    assert isinstance(ledger.send(replace(verbs[ending], scopes=scopes)), Ok)
    expected = {"settle": (70, 0), "release": (0, 0), "expire": (100, 0), "extend": (0, 105)}
    assert numbers(ledger) == expected[ending]
    assert numbers(ledger, CUSTOMER) == numbers(ledger, scope("monthly", start=5)) == (0, 0)


@pytest.mark.parametrize("scopes", [(), (CUSTOMER,)], ids=len)
def test_corrections_move_the_windows_of_birth_too(ledger: AnyLedger, clock: ManualClock, scopes: Any) -> None:
    brought_to(ledger, clock, "lapsed")
    assert isinstance(ledger.send(settle(30, scopes=scopes)), Ok)
    assert numbers(ledger) == (30, 0)
    ledger.send(reserve(5, "second"))
    ledger.send(release("second", scopes=scopes))
    assert isinstance(ledger.send(settle(3, "second", scopes=scopes)), Ok)
    assert numbers(ledger) == (33, 0)
    assert last(ledger).windows == (MONTH.window_id,)


def test_only_a_newer_version_of_a_budget_is_taken_and_an_older_one_changes_nothing(ledger: AnyLedger) -> None:
    assert isinstance(publish(ledger, 1000, version=5), Ok)
    assert publish(ledger, 1, version=5, policy_version=9) == OldVersion(5)
    assert publish(ledger, 1, version=4, policy_version=9) == OldVersion(5)
    assert isinstance(ledger.send(reserve(1000)), Ok)


def test_versions_are_compared_as_numbers(ledger: AnyLedger) -> None:
    publish(ledger, 1, version=9, policy_version=9)
    assert isinstance(publish(ledger, 2, version=10, policy_version=10), Ok)
    assert publish(ledger, 3, version=9, policy_version=11) == OldVersion(10)
    assert isinstance(ledger.send(reserve(2, policy_version=10)), Ok)


def test_a_late_older_publication_does_not_bring_a_deleted_budget_back(ledger: AnyLedger) -> None:
    publish(ledger, 1000, version=5)
    publish(ledger, 0, version=7, deleted=True)
    assert publish(ledger, 1000, version=6) == OldVersion(7)
    assert ledger.send(reserve(1)) == StalePolicy(1)
    assert isinstance(publish(ledger, 10, version=8), Ok)
    assert isinstance(ledger.send(reserve(10)), Ok)


def test_the_policy_version_only_rises(ledger: AnyLedger) -> None:
    publish(ledger, 1000, policy_version=5)
    publish(ledger, 1000, version=2, policy_version=3)
    assert ledger.send(reserve(1)) == StalePolicy(5)


def test_a_lowered_limit_cancels_nothing_and_refuses_the_next(ledger: AnyLedger, clock: ManualClock) -> None:
    brought_to(ledger, clock, "reserved")
    publish(ledger, 50, version=2)
    assert isinstance(ledger.send(reserve(0, "next")), Denied)
    assert isinstance(ledger.send(settle(100)), Ok)
    assert numbers(ledger) == (100, 0)


def test_untouched_windows_read_as_zeros(ledger: AnyLedger, clock: ManualClock) -> None:
    publish(ledger, 1000)
    assert ledger.send(Read(ORG, BOTH)) == Ok(clock.now_ms(), 1, (ScopeState(1000, 0, 0), ScopeState(0, 0, 0)))


def test_two_values_of_one_budget_are_read_together(ledger: AnyLedger) -> None:
    ledger.send(record(3))
    reply = ledger.send(Read(ORG, (MONTH, replace(MONTH, value="other"))))
    assert isinstance(reply, Ok)
    assert [state.settled for state in reply.scopes] == [3, 0]


def test_every_write_is_counted_and_nothing_else(ledger: AnyLedger, clock: ManualClock) -> None:
    replies = [publish(ledger, 1000), *(ledger.send(verb) for verb in (reserve(1), extend(1), settle(1)))]
    assert [reply.seq for reply in replies if isinstance(reply, Ok)] == [1, 2, 3, 4]
    for verb in (reserve(1), settle(1), settle(2), release(), expire(), extend(1), reserve(2000, "dear")):
        ledger.send(verb)
    reply = ledger.send(release("x"))
    assert isinstance(reply, Ok)
    assert (reply.now_ms, reply.seq) == (clock.now_ms(), 5)
