"""Sweeping and the audit, on a real server."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from shared import redis_keys
from shared.clock import ManualClock, SystemClock
from shared.ledger.audit import Finding, Picture, audit_command, findings, parse_audit, unseen
from shared.ledger.sweep import overdue, parse_reservation, reservation_command, sweep
from tests.ledger_verbs import (
    BOTH,
    CUSTOMER,
    LEASE_MS,
    MONTH,
    ORG,
    expire,
    publish,
    record,
    release,
    reserve,
    server_client,
    settle,
)
from tests.ledgers import OnServer, dump, finished

SHARD = redis_keys.shard_of(ORG)
PREFIX = redis_keys.tag(ORG)
NAMES = ["held", "also", "settled", "released"]
WINDOWS = [MONTH.window_id, CUSTOMER.window_id]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with server_client() as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().now_ms())


@pytest.fixture
def ledger(client: Any, clock: ManualClock) -> OnServer:
    """Two calls held, one settled, one released, one of an unbudgeted kind."""
    client.flushall()
    on_server = OnServer(client, clock)
    on_server.set_epoch(ORG, present=True)
    publish(on_server, 1000)
    publish(on_server, 1000, "customer")
    for name in NAMES:
        on_server.send(reserve(10, name, scopes=(MONTH,) if name == "also" else BOTH))
    on_server.send(settle(7, "settled"))
    on_server.send(release("released"))
    on_server.send(record(3, "recorded"))
    return on_server


def audited(ledger: OnServer, names: list[str] | None = None, windows: list[str] | None = None) -> Picture:
    names, windows = NAMES if names is None else names, WINDOWS if windows is None else windows
    reply = finished(ledger.ledger.run(audit_command(SHARD, names, windows)))
    return parse_audit(names, windows, reply)


def test_a_sound_ledger_has_no_findings_and_auditing_it_changes_nothing(ledger: OnServer, client: Any) -> None:
    before = dump(client)
    picture = audited(ledger)
    assert findings(picture) == []
    assert unseen(picture, NAMES, WINDOWS) == (set(), set())
    assert picture.windows[MONTH.window_id].held == 20
    assert picture.windows[MONTH.window_id].settled == 10
    assert set(picture.leases) == {"held", "also"}
    assert dump(client) == before


def test_what_came_up_while_the_lists_were_made_is_asked_for_again(ledger: OnServer) -> None:
    picture = audited(ledger, ["held"], [MONTH.window_id])
    assert unseen(picture, ["held"], [MONTH.window_id]) == ({"also"}, {CUSTOMER.window_id})


@pytest.mark.parametrize("window", WINDOWS)
def test_a_hold_that_leaked_is_found(ledger: OnServer, client: Any, window: str) -> None:
    held = int(client.hget(redis_keys.window(PREFIX, window), "held"))
    client.hincrby(redis_keys.window(PREFIX, window), "held", 5)
    assert findings(audited(ledger)) == [Finding("held", window, held, held + 5)]


def test_a_lost_window_is_found(ledger: OnServer, client: Any) -> None:
    client.delete(redis_keys.window(PREFIX, CUSTOMER.window_id))
    assert findings(audited(ledger)) == [Finding("held", CUSTOMER.window_id, 10, 0)]


def test_a_lease_without_its_reservation_is_found(ledger: OnServer, client: Any, clock: ManualClock) -> None:
    client.zadd(redis_keys.open_leases(PREFIX), {"settled": 5, "ghost": 6})
    assert findings(audited(ledger, [*NAMES, "ghost"])) == [
        Finding("lease", "settled", 5, 0),
        Finding("lease", "ghost", 6, 0),
    ]


def test_a_reservation_that_nothing_would_end_is_found(ledger: OnServer, client: Any, clock: ManualClock) -> None:
    client.zrem(redis_keys.open_leases(PREFIX), "also")
    assert findings(audited(ledger)) == [Finding("orphan", "also", clock.now_ms() + LEASE_MS, 0)]


def test_the_sweeper_reads_where_a_reservation_was_born(ledger: OnServer, clock: ManualClock) -> None:
    stored = parse_reservation(finished(ledger.ledger.execute(reservation_command(SHARD, "held"))))
    assert stored is not None
    assert (stored.state, stored.org_id, stored.amount, stored.scopes) == ("reserved", ORG, 10, BOTH)
    assert stored.lease_end_ms == clock.now_ms() + LEASE_MS
    ended = parse_reservation(finished(ledger.ledger.execute(reservation_command(SHARD, "settled"))))
    assert ended is not None
    assert (ended.state, ended.scopes) == ("settled", None)
    assert parse_reservation(finished(ledger.ledger.execute(reservation_command(SHARD, "nobody")))) is None


def test_a_sweep_lapses_what_is_overdue_and_only_that(ledger: OnServer, clock: ManualClock) -> None:
    assert finished(sweep(ledger.ledger, [ORG])) == 0
    clock.advance(LEASE_MS)
    ledger.send(reserve(1, "young"))
    assert finished(overdue(ledger.ledger, SHARD, count=1)) in (
        [expire("also")],
        [replace(expire("held"), scopes=BOTH)],
    )
    assert finished(sweep(ledger.ledger, [ORG, ORG])) == 2
    assert finished(sweep(ledger.ledger, [ORG])) == 0
    picture = audited(ledger, [*NAMES, "young"])
    assert findings(picture) == []
    assert picture.windows[MONTH.window_id].settled == 30
    assert [entry.flags for entry in ledger.stream(ORG)[-2:]] == [("lapsed",), ("lapsed",)]
