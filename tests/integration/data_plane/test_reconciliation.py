"""A mixed hour in a second: the ledger's books against the provider's own account of what it served."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from deploy.demo.provider import ScriptedProvider
from deploy.demo.served import Served
from tests.integration.data_plane.booked import WIDE
from tests.integration.data_plane.caller import Caller
from tests.integration.data_plane.harness import Plane, working
from tests.integration.data_plane.surfaces import SURFACES, Surface
from tests.integration.data_plane.tenant import Spend

CALLS = 150
CALLERS = 12
FAULTS = (
    *(None,) * 12,
    "reset_before_headers",
    "cut_after_chunks:2",
    "error_after_chunks:2",
    "no_usage",
    "unparsable",
    "usage_in_error",
    "gzip",
)


class Asked(NamedTuple):
    tag: str
    surface: Surface
    stream: bool
    body: bytes
    leaves: bool


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as provider:
        yield provider


def asked(rng: random.Random, number: int) -> Asked:
    surface, stream = rng.choice(SURFACES), rng.random() < 0.5
    fault = rng.choice(FAULTS)
    if fault is not None and fault.startswith("error") and not stream:
        fault = None
    script: dict[str, Any] = {"in": rng.randrange(1, 3000), "out": rng.randrange(40, 600), "chunks": 6}
    leaves = fault is None and rng.random() < 0.1
    if leaves:
        script["delay_ms"] = 5
    if fault is not None:
        script["fault"] = fault
    elif not leaves and rng.random() < 0.1:
        script["status"] = rng.choice([400, 429, 503, 529])
    text = f"#script: {json.dumps(script)}"
    body = surface.body(stream=stream, cap=700).replace(b'"hello"', json.dumps(text).encode())
    return Asked(f"tag-{number}", surface, stream, body, leaves)


async def work(plane: Plane, port: int, asks: list[Asked]) -> Counter[int]:
    """One caller: a connection for as long as the gateway keeps it."""
    seen: Counter[int] = Counter()
    client: Caller | None = None
    while asks:
        ask = asks.pop()
        headers = [("Idempotency-Key", ask.tag), ("X-Request-Tag", ask.tag), ("anthropic-version", "2023-06-01")]
        client = client or await Caller.connect(port)
        client.send(plane.request(ask.surface, stream=ask.stream, body=ask.body, headers=headers))
        if ask.leaves:
            await asyncio.sleep(0.01)
            await client.leave()
            client = None
            continue
        reply = await client.reply()
        seen[reply.status] += 1
        if not reply.complete or reply.header("connection") == "close":
            await client.leave()
            client = None
    if client is not None:
        await client.leave()
    return seen


def check(ask: Asked, spend: Spend, served: Served | None) -> None:
    """What the provider knows of a call decides what it may have cost."""
    hold, event = ask.surface.hold(ask.body, 700), spend.event
    assert event.estimated_cost_microdollars == hold
    if served is None:  # or what was sent was taken back before the provider read it
        assert (event.outcome, spend.cost) == ("never_sent", 0) or ask.leaves
        return
    exact = ask.surface.price(served.usage.input, served.usage.output)
    assert served.status != 400 or b'"status": 400' in ask.body.replace(b"\\", b""), "the test asks what is not served"
    if served.status >= 400:
        assert (event.outcome, spend.cost) == ("refused", exact if served.usage_sent else 0), (ask, event, served)
    elif served.completed and served.usage_sent:
        assert (event.cost_source, spend.cost) == ("exact", exact), (ask, event, served)
    else:
        assert event.cost_source in {"counted", "bound", "exact"}
        assert 0 < spend.cost <= max(hold, exact), (ask, event, served)
    assert ("cancelled" not in event.flags) or ask.leaves


@pytest.mark.parametrize("seed", range(3))
async def test_every_call_costs_what_the_provider_served(plane: Plane, provider: ScriptedProvider, seed: int) -> None:
    rng = random.Random(seed)
    asks = [asked(rng, number) for number in range(CALLS)]
    by_tag = {ask.tag: ask for ask in asks}
    budgets = [
        await plane.tenant.budget(WIDE),
        await plane.tenant.budget(WIDE, "api_key", plane.key.id),
    ]
    async with working(plane.redis_url, provider.url) as worker:
        seen = sum(await asyncio.gather(*(work(plane, worker.port, asks) for _ in range(CALLERS))), Counter[int]())
        spends = await plane.tenant.ended(CALLS)
    assert seen[200] > CALLS // 2
    assert not seen[500] - sum(served.status == 500 for served in provider.stats().served)
    served = {entry.tag: entry for entry in provider.stats().served}
    assert {spend.event.idempotency_key for spend in spends} == by_tag.keys()
    for spend in spends:
        tag = spend.event.idempotency_key or ""
        check(by_tag[tag], spend, served.get(tag))
    for budget in budgets:
        state = await plane.tenant.state(budget)
        assert (state.settled, state.held) == (sum(spend.cost for spend in spends), 0)
