"""SIGKILL to each part of the product in the middle of traffic: no money is lost or doubled, and calls work again."""

import asyncio
import os
import signal
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.control import Control
from tests.support.product import PARTS, Part, Product, running
from tests.support.settling import Settled, reasons, settle
from tests.support.traffic import Traffic
from tests.support.upstreams import Scripted
from tests.support.waiting import eventually

CALLERS: Final = 12
BEFORE: Final = 100
"""Complete calls before the kill, and as many again after it."""
WIDE: Final = 10**9
RECOVERY_S: Final = 60.0

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def victim(room: Path, scripted: Scripted, slow_machine: dict[str, str]) -> Iterator[Product]:
    """An instance of its own. Its leases are short, so that what a dead worker held is charged soon."""
    settings = {**scripted.place.settings(), **slow_machine}
    settings |= {"NULLSPEND_LEASE_SECONDS": "3", "NULLSPEND_SWEEP_EVERY_S": "1"}
    instance = Product(room / "k", settings)
    instance.start()
    try:
        yield instance
        assert instance.stop() == 0, instance.output
    finally:
        instance.kill()


@dataclass(frozen=True, slots=True)
class Story:
    """What was found after a kill."""

    settled: list[Settled]

    def only(self, *reasons: str) -> list[Settled]:
        return [call for call in self.settled if call.reason in reasons]


async def survive(victim: Product, scripted: Scripted, strike: Callable[[Product], Awaitable[None]]) -> Story:
    """Traffic, a kill in its middle, traffic again; then every microdollar is looked for."""
    customer = f"k-{uuid.uuid4().hex[:8]}"
    async with Control(victim) as control:
        budget = await control.limit("customer", customer, WIDE)
        whole = await control.limit("org", victim.credentials["org_id"], WIDE)
        traffic = Traffic(victim.url, control.key, customer)
        traffic.start(CALLERS)
        await traffic.reach(BEFORE, within_s=RECOVERY_S)
        await strike(victim)
        await traffic.reach(traffic.completed + BEFORE, within_s=RECOVERY_S)
        await traffic.stop()
        await eventually(lambda: _ready(victim), bool, within_s=RECOVERY_S)
        spent = await _at_rest(control, budget)
        events = await control.events(customerId=customer)
        settled = settle(traffic.told, scripted.served(customer), events)
        print(reasons(settled), f"{spent} microdollars")
        assert spent == sum(event["costMicrodollars"] for event in events) == sum(call.charge for call in settled)
        everything = await control.events()
        assert await control.at_rest(whole) == sum(event["costMicrodollars"] for event in everything)
    code, report = victim.audit()
    assert (code, report["findings"]) == (0, []), report
    return Story(settled)


def kill_one(part: Part) -> Callable[[Product], Awaitable[None]]:
    """One process of a part dies by SIGKILL, and another takes its place."""

    async def strike(victim: Product) -> None:
        before = victim.pids(part)
        os.kill(before[0], signal.SIGKILL)

        async def now() -> list[int]:
            return victim.pids(part)

        await eventually(now, lambda pids: len(pids) == len(before) and before[0] not in pids, within_s=RECOVERY_S)

    return strike


async def kill_all(victim: Product) -> None:
    """The process that looks after the others dies by SIGKILL. They follow it, and it is started again."""
    children = [pid for part in PARTS for pid in victim.pids(part)]
    victim.kill()

    async def left() -> list[int]:
        return running(children)

    await eventually(left, lambda pids: pids == [], within_s=RECOVERY_S)
    await asyncio.to_thread(victim.start)


async def _ready(victim: Product) -> bool:
    """Proxy and control plane say so themselves."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        try:
            answers = [await client.get(f"{url}/health/ready") for url in (victim.url, victim.control_url)]
        except httpx.TransportError:
            return False
    return all(answer.is_success for answer in answers)


async def _at_rest(control: Control, budget: str) -> int:
    """The spend of a budget once nothing is held and every charge is on record."""

    async def look() -> tuple[int, int, int]:
        row = await control.budget(budget)
        events = await control.events(customerId=row["entityId"])
        recorded = sum(event["costMicrodollars"] for event in events)
        return row["reservedMicrodollars"], row["spendMicrodollars"], recorded

    _, spent, _ = await eventually(look, lambda seen: seen[0] == 0 and seen[1] == seen[2], within_s=RECOVERY_S)
    return spent


async def test_a_killed_worker_costs_its_open_calls_their_holds_and_no_other_call_anything(
    victim: Product, scripted: Scripted
) -> None:
    story = await survive(victim, scripted, kill_one("worker"))
    assert len(story.only("exact")) >= 2 * BEFORE
    assert story.only("lapsed"), "the kill met no open call"
    assert len(story.only("exact", "lapsed", "never_arrived")) == len(story.settled)
    assert len(story.only("lapsed", "never_arrived")) <= CALLERS


async def test_a_killed_control_plane_is_not_noticed_by_any_call(victim: Product, scripted: Scripted) -> None:
    story = await survive(victim, scripted, kill_one("control plane"))
    assert len(story.only("exact")) == len(story.settled)


async def test_a_killed_database_is_not_noticed_by_any_call(victim: Product, scripted: Scripted) -> None:
    story = await survive(victim, scripted, kill_one("postgres"))
    assert len(story.only("exact")) == len(story.settled)


async def test_a_killed_ledger_process_refuses_calls_until_it_is_back_and_loses_nothing(
    victim: Product, scripted: Scripted
) -> None:
    story = await survive(victim, scripted, kill_one("valkey"))
    said = {(call.told.status, call.told.code) for call in story.settled if not call.told.complete}
    assert said <= {(503, "budget_unavailable"), (503, "service_unavailable")}
    assert len(story.only("exact", "refused", "never_sent")) == len(story.settled)


async def test_everything_killed_at_once_starts_again_and_has_lost_nothing(victim: Product, scripted: Scripted) -> None:
    story = await survive(victim, scripted, kill_all)
    assert len(story.only("exact")) >= 2 * BEFORE
    assert len(story.only("lapsed")) <= CALLERS
    said = {call.told.code for call in story.only("refused", "never_sent")}
    assert said <= {"budget_unavailable", "service_unavailable"}
