"""Verbs for the tests of the ledger, with everything filled in that a test does not care about."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from shared.clock import ManualClock
from shared.ledger import (
    Expire,
    Extend,
    Ok,
    Read,
    Record,
    Release,
    Reply,
    Reserve,
    SetLimit,
    Settle,
    State,
    StreamEntry,
)
from tests.ledgers import AnyLedger, InMemory, OnServer, connect, scope
from tests.valkey import valkey_server

ORG = "org_a"
MONTH = scope("monthly", start=0, end=0)
CUSTOMER = scope("customer", value="acme")
BOTH = (MONTH, CUSTOMER)
LEASE_MS = 60_000

ENDED: tuple[State, ...] = ("settled", "released", "lapsed", "trued_up", "recorded")
BOOKED: dict[str, int] = {"settled": 70, "released": 0, "lapsed": 100, "trued_up": 70, "recorded": 70}
"""What `brought_to` left charged in each end."""


@contextmanager
def server_client(*options: str) -> Iterator[Any]:
    with valkey_server(*options) as path, connect(path) as client:
        yield client


def new_ledger(kind: str, server: Any, clock: ManualClock) -> AnyLedger:
    """An empty ledger with an epoch: the `model`, or the `lua` on a server."""
    if kind == "model":
        return InMemory(clock)
    server.flushall()
    on_server = OnServer(server, clock)
    on_server.set_epoch(ORG, present=True)
    return on_server


def publish(ledger: AnyLedger, limit: int, budget_id: str = "monthly", version: int = 1, **changes: Any) -> Reply:
    verb = SetLimit(ORG, budget_id, version, limit, False, 1, "org:a", b"[]")
    return ledger.send(replace(verb, **changes))


def reserve(amount: int, name: str = "call", **changes: Any) -> Reserve:
    return replace(Reserve(name, ORG, 1, amount, (MONTH,), LEASE_MS, b"draft"), **changes)


def settle(amount: int, name: str = "call", **changes: Any) -> Settle:
    return replace(Settle(name, ORG, amount, (MONTH,), b"settled"), **changes)


def release(name: str = "call", **changes: Any) -> Release:
    return replace(Release(name, ORG, (MONTH,), b"released"), **changes)


def record(amount: int, name: str = "call") -> Record:
    return Record(name, ORG, amount, (MONTH,), b"recorded")


def extend(add: int, name: str = "call", lease_ms: int = LEASE_MS) -> Extend:
    return Extend(name, ORG, add, (MONTH,), lease_ms)


def expire(name: str = "call", *, force: bool = False) -> Expire:
    return Expire(name, ORG, (MONTH,), force)


def numbers(ledger: AnyLedger, *scopes: Any) -> tuple[int, int]:
    """Settled and held of the monthly window, or of the one given."""
    reply = ledger.send(Read(ORG, scopes or (MONTH,)))
    assert isinstance(reply, Ok)
    return reply.scopes[0].settled, reply.scopes[0].held


def last(ledger: AnyLedger) -> StreamEntry:
    return ledger.stream(ORG)[-1]


def brought_to(ledger: AnyLedger, clock: ManualClock, state: State) -> None:
    """The call `call`, reserved at 100 and brought to a state; settled at 70."""
    publish(ledger, 1000)
    if state == "recorded":
        ledger.send(record(70))
    elif state != "none":
        assert isinstance(ledger.send(reserve(100)), Ok)
    if state in {"lapsed", "trued_up"}:
        clock.advance(LEASE_MS)
        assert isinstance(ledger.send(expire()), Ok)
    if state in {"settled", "trued_up"}:
        assert isinstance(ledger.send(settle(70)), Ok)
    if state == "released":
        assert isinstance(ledger.send(release()), Ok)
