"""However many callers and workers race for a budget, exactly what it carries is let through."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from shared.budgets import EntityType
from tests.integration.data_plane.caller import Caller, Reply
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.harness import Plane, until
from tests.integration.data_plane.surfaces import ANTHROPIC, GEMINI, OPENAI, Surface
from tests.integration.data_plane.test_denials import LABELS, budget_of
from tests.integration.data_plane.upstream import Received, Wire, stream, whole

CALLERS = 64
FITTING = 10


class Gate:
    """A provider that answers when it is told to: until then every hold that was made is still held."""

    def __init__(self, surface: Surface, *, streams: bool = False) -> None:
        self.open = asyncio.Event()
        self.play = stream(surface.pieces) if streams else whole(surface.reply)

    async def __call__(self, request: Received, wire: Wire) -> None:
        await self.open.wait()
        await self.play(request, wire)


async def race(planes: Sequence[Plane], surface: Surface, gate: Gate, *, streams: bool = False) -> list[Reply]:
    """All callers connect, then all of them ask at once; the provider answers when all others were refused."""
    callers = [await planes[n % len(planes)].connect() for n in range(CALLERS)]
    raw = planes[0].request(surface, headers=LABELS, stream=streams)
    upstream = planes[0].upstream
    try:
        for caller in callers:
            caller.send(raw)
        waiting = [asyncio.create_task(caller.reply()) for caller in callers]
        await until(lambda: sum(task.done() for task in waiting) + len(upstream.requests) == CALLERS)
        assert len(upstream.requests) <= FITTING
        gate.open.set()
        return list(await asyncio.gather(*waiting))
    finally:
        await asyncio.gather(*(leave(caller) for caller in callers))


async def leave(caller: Caller) -> None:
    await caller.leave()


@pytest.mark.parametrize("entity_type", ["org", "api_key", "customer", "tag"])
async def test_a_budget_for_ten_calls_lets_ten_of_sixty_four_through_on_two_workers(
    new_plane: NewPlane, entity_type: EntityType
) -> None:
    first, second = await new_plane(), await new_plane()
    second.key = first.key
    hold = OPENAI.hold(OPENAI.body())
    budget, _ = await budget_of(first, entity_type, FITTING * hold)
    first.upstream.play = gate = Gate(OPENAI)
    replies = await race([first, second], OPENAI, gate)
    assert Counter(reply.status for reply in replies) == {200: FITTING, 429: CALLERS - FITTING}
    assert len(first.upstream.requests) == FITTING
    assert all(reply.error["in_flight"] for reply in replies if reply.status == 429)
    spends = await first.tenant.ended(FITTING)
    state = await first.tenant.state(budget)
    assert (state.settled, state.held) == (sum(spend.cost for spend in spends), 0)
    assert state.settled == FITTING * OPENAI.cost


@pytest.mark.parametrize("surface", [ANTHROPIC, GEMINI], ids=lambda surface: surface.name)
async def test_streams_of_every_dialect_race_as_exactly(plane: Plane, surface: Surface) -> None:
    hold = surface.hold(surface.body(stream=True))
    budget = await plane.tenant.budget(FITTING * hold + hold - 1)
    plane.upstream.play = gate = Gate(surface, streams=True)
    replies = await race([plane], surface, gate, streams=True)
    assert Counter(reply.status for reply in replies) == {200: FITTING, 429: CALLERS - FITTING}
    await plane.tenant.ended(FITTING)
    state = await plane.tenant.state(budget)
    assert (state.settled, state.held) == (FITTING * surface.cost, 0)


async def test_when_one_of_two_budgets_refuses_neither_moves(plane: Plane) -> None:
    hold = OPENAI.hold(OPENAI.body())
    wide, _ = await budget_of(plane, "org", 100 * hold)
    tight, _ = await budget_of(plane, "customer", FITTING * hold)
    plane.upstream.play = gate = Gate(OPENAI)
    replies = await race([plane], OPENAI, gate)
    assert Counter(reply.status for reply in replies) == {200: FITTING, 429: CALLERS - FITTING}
    await plane.tenant.ended(FITTING)
    for budget in (wide, tight):
        state = await plane.tenant.state(budget)
        assert (state.settled, state.held) == (FITTING * OPENAI.cost, 0)


async def test_a_wide_budget_ends_at_the_sum_of_its_events(plane: Plane) -> None:
    budget = await plane.tenant.budget(10**9)
    callers = [await plane.connect() for _ in range(16)]
    surfaces = (OPENAI, ANTHROPIC, GEMINI)

    async def work(number: int, caller: Caller) -> None:
        for turn in range(9):
            surface, streams = surfaces[(number + turn) % 3], turn % 2 == 0
            caller.send(plane.request(surface, stream=streams))
            assert (await caller.reply()).status == 200

    await asyncio.gather(*(work(number, caller) for number, caller in enumerate(callers)))
    spends = await plane.tenant.ended(16 * 9)
    state = await plane.tenant.state(budget)
    assert (state.settled, state.held) == (sum(spend.cost for spend in spends), 0)
    assert Counter(spend.cost for spend in spends) == {surface.cost: 48 for surface in surfaces}
    assert {spend.entry.windows for spend in spends} == {(f"{budget.id}:0:-",)}
    await asyncio.gather(*(leave(caller) for caller in callers))


async def test_what_was_settled_makes_room_for_the_next(plane: Plane) -> None:
    hold = OPENAI.hold(OPENAI.body())
    budget = await plane.tenant.budget(hold + 2 * OPENAI.cost)
    for number in range(3):
        assert (await plane.call()).status == 200
        await plane.tenant.ended(number + 1)
    assert (await plane.call()).status == 429
    assert (await plane.tenant.state(budget)).settled == 3 * OPENAI.cost
