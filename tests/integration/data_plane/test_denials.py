"""A budget that does not carry a call refuses it with every number the refusal rests on, and nothing leaves."""

import asyncio
import time
from typing import Any

import pytest

from shared.budgets import Budget, EntityType
from shared.windows import Window
from tests.integration.data_plane.expected import assert_nothing_left, assert_refused
from tests.integration.data_plane.harness import Plane, until
from tests.integration.data_plane.surfaces import OPENAI, SURFACES, Surface
from tests.integration.data_plane.tenant import FOREVER
from tests.integration.data_plane.upstream import Received, Wire, whole

LABELS = [("X-NullSpend-Customer", "acme"), ("X-NullSpend-Tags", '{"feature":"search"}')]
CODES = {
    "org": "budget_exceeded",
    "api_key": "budget_exceeded",
    "customer": "customer_budget_exceeded",
    "tag": "tag_budget_exceeded",
}
HOLD = OPENAI.hold(OPENAI.body())


async def budget_of(
    plane: Plane, entity_type: EntityType, limit: int, *, window: Window = FOREVER
) -> tuple[Budget, str]:
    """A budget of what the call with LABELS belongs to, and the id under which the entity is shown."""
    match entity_type:
        case "org":
            entity, shown = plane.tenant.id, f"ns_org_{plane.tenant.id}"
        case "api_key":
            entity, shown = plane.key.id, f"ns_key_{plane.key.id}"
        case "customer":
            entity = shown = "acme"
        case "tag":
            entity = shown = "feature=search"
    return await plane.tenant.budget(limit, entity_type, entity, window=window), shown


@pytest.mark.parametrize("entity_type", CODES)
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
async def test_a_budget_that_does_not_carry_the_hold_refuses_it(
    plane: Plane, surface: Surface, entity_type: EntityType
) -> None:
    hold = surface.hold(surface.body())
    budget, entity_id = await budget_of(plane, entity_type, hold - 1)
    reply = await plane.call(surface, headers=LABELS)
    error = assert_refused(reply, 429, CODES[entity_type], surface=surface, denied=True)
    details = error["details"]
    assert details.pop("scopes") == [
        {
            "budget_id": f"ns_bgt_{budget.id}",
            "entity_type": entity_type,
            "entity_id": entity_id,
            "policy": "strict_block",
            "limit_microdollars": hold - 1,
            "settled_microdollars": 0,
            "held_microdollars": 0,
            "ceiling_microdollars": hold - 1,
            "needed_microdollars": hold,
            "resets_at": None,
            "in_flight": False,
        }
    ]
    named = {"customer": {"customer_id": "acme"}, "tag": {"tag_key": "feature", "tag_value": "search"}}
    assert details == {
        "entity_type": entity_type,
        "entity_id": entity_id,
        "budget_limit_microdollars": hold - 1,
        "budget_spend_microdollars": 0,
        "remaining_microdollars": hold - 1,
        "estimated_cost_microdollars": hold,
        "finalization_reserve_microdollars": 0,
        "finalization_remaining_microdollars": 0,
        "in_flight": False,
        **named.get(entity_type, {}),
    }
    assert "resets_at" not in error
    assert reply.header("Retry-After") is None
    await assert_nothing_left(plane)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
async def test_a_hold_that_fits_to_the_microdollar_passes(plane: Plane, surface: Surface) -> None:
    hold = surface.hold(surface.body())
    await plane.tenant.budget(hold)
    reply = await plane.call(surface)
    assert reply.status == 200
    assert reply.header("X-NullSpend-Estimate") == str(hold)
    assert reply.header("X-NullSpend-Budget-Limit") == str(hold)
    assert reply.header("X-NullSpend-Budget-Spent") == str(hold)
    assert reply.header("X-NullSpend-Budget-Remaining") == "0"
    assert reply.header("X-NullSpend-Budget-Entity") == f"org:ns_org_{plane.tenant.id}"


async def test_a_refusal_tells_of_the_tightest_budget_in_headers_too(plane: Plane) -> None:
    await plane.tenant.budget(10 * HOLD)
    await budget_of(plane, "tag", 5)
    reply = await plane.call(headers=LABELS)
    assert_refused(reply, 429, "tag_budget_exceeded", surface=OPENAI, denied=True)
    assert reply.header("X-NullSpend-Budget-Limit") == "5"
    assert reply.header("X-NullSpend-Budget-Spent") == "0"
    assert reply.header("X-NullSpend-Budget-Remaining") == "5"
    assert reply.header("X-NullSpend-Budget-Entity") == "tag:feature=search"


async def test_money_that_is_only_held_makes_waiting_worth_it(plane: Plane) -> None:
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await go.wait()
        await whole(OPENAI.reply)(request, wire)

    plane.upstream.play = late
    budget = await plane.tenant.budget(2 * HOLD - 1)
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await until(lambda: plane.upstream.requests)
        reply = await plane.call()
        error = assert_refused(reply, 429, "budget_exceeded", surface=OPENAI, denied=True)
        go.set()
        assert (await caller.reply()).status == 200
    assert error["in_flight"] is error["details"]["in_flight"] is True
    assert error["recovery"] == {"retryable": True, "owner_action_required": False, "retry_after_seconds": 2}
    assert reply.header("Retry-After") == "2"
    (scope,) = error["details"]["scopes"]
    assert (scope["held_microdollars"], scope["settled_microdollars"], scope["in_flight"]) == (HOLD, 0, True)
    assert error["details"]["remaining_microdollars"] == HOLD - 1
    assert len(plane.upstream.requests) == 1
    assert (await plane.tenant.spent()).cost == OPENAI.cost
    assert (await plane.tenant.state(budget)).settled == OPENAI.cost


async def test_a_call_that_fits_an_empty_window_only_waits_for_the_next_one(plane: Plane) -> None:
    window = Window("day", "calendar", "UTC")
    await plane.tenant.budget(HOLD + OPENAI.cost - 1, window=window)
    assert (await plane.call()).status == 200
    await plane.tenant.spent()
    error = (reply := await plane.call()).error
    assert_refused(reply, 429, "budget_exceeded", surface=OPENAI, denied=True)
    midnight = time.strftime("%Y-%m-%dT00:00:00.000Z", time.gmtime(time.time() + 86_400))
    assert (error["in_flight"], error["resets_at"]) == (False, midnight)
    assert error["recovery"] == {"retryable": False, "owner_action_required": False, "retry_after_seconds": None}
    assert reply.header("Retry-After") is None
    assert error["details"]["scopes"][0]["resets_at"] == midnight


async def test_a_call_that_fits_no_window_needs_the_owner(plane: Plane) -> None:
    await plane.tenant.budget(HOLD - 1, window=Window("hour"))
    reply = await plane.call()
    error = assert_refused(reply, 429, "budget_exceeded", surface=OPENAI, denied=True)
    assert error["in_flight"] is False
    assert error["recovery"] == {"retryable": False, "owner_action_required": True, "retry_after_seconds": None}
    assert error["resets_at"].endswith(":00:00.000Z")


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize(("asked", "status"), [("402", 402), ("429", 429), ("500", 429), ("", 429)])
async def test_a_client_that_retries_every_429_may_ask_for_402(
    plane: Plane, surface: Surface, asked: str, status: int
) -> None:
    await plane.tenant.budget(0)
    reply = await plane.call(surface, headers=[("X-NullSpend-Denial-Status", asked)])
    assert_refused(reply, status, "budget_exceeded", surface=surface, denied=True)
    await assert_nothing_left(plane)


async def test_only_money_is_refused_with_402(plane: Plane) -> None:
    key = await plane.tenant.key(allowed_models=())
    reply = await plane.call(key=key, headers=[("X-NullSpend-Denial-Status", "402")])
    assert_refused(reply, 403, "mandate_violation", surface=OPENAI, denied=True)


async def test_every_failing_budget_is_listed_and_the_largest_shortfall_gives_the_code(plane: Plane) -> None:
    passing = await plane.tenant.budget(HOLD)
    await budget_of(plane, "api_key", HOLD - 1)
    await budget_of(plane, "tag", HOLD - 3)
    await budget_of(plane, "customer", HOLD - 2)
    reply = await plane.call(headers=LABELS)
    error = assert_refused(reply, 429, "tag_budget_exceeded", surface=OPENAI, denied=True)
    scopes: list[dict[str, Any]] = error["details"]["scopes"]
    assert [scope["entity_type"] for scope in scopes] == ["tag", "customer", "api_key"]
    assert f"ns_bgt_{passing.id}" not in {scope["budget_id"] for scope in scopes}


async def test_equal_shortfalls_are_ordered_by_type_and_id(plane: Plane) -> None:
    for entity_type in ("tag", "org", "customer", "api_key"):
        await budget_of(plane, entity_type, 7)
    error = (await plane.call(headers=LABELS)).error
    assert [scope["entity_type"] for scope in error["details"]["scopes"]] == ["api_key", "customer", "org", "tag"]
    assert error["code"] == "budget_exceeded"


async def test_one_budget_in_flight_and_another_spent_is_not_worth_waiting_for(plane: Plane) -> None:
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        await go.wait()
        await whole(OPENAI.reply)(request, wire)

    plane.upstream.play = late
    await plane.tenant.budget(HOLD)
    await budget_of(plane, "customer", 1)
    async with await plane.connect() as caller:
        caller.send(plane.request())
        await until(lambda: plane.upstream.requests)
        error = (reply := await plane.call(headers=LABELS)).error
        go.set()
        await caller.reply()
    assert error["in_flight"] is False
    assert [scope["in_flight"] for scope in error["details"]["scopes"]] == [True, False]
    assert reply.header("Retry-After") is None


async def test_a_bound_key_is_held_in_its_own_customers_budget_whatever_the_header_says(plane: Plane) -> None:
    await plane.tenant.budget(0, "customer", "bound")
    key = await plane.tenant.key(customer_id="bound")
    reply = await plane.call(key=key, headers=[("X-NullSpend-Customer", "other")])
    error = assert_refused(reply, 429, "customer_budget_exceeded", surface=OPENAI, denied=True)
    assert error["details"]["customer_id"] == "bound"
    await assert_nothing_left(plane)


async def test_a_spent_budget_of_somebody_else_stops_nobody(plane: Plane) -> None:
    await plane.tenant.budget(0, "customer", "other")
    await plane.tenant.budget(0, "tag", "feature=other")
    await plane.tenant.budget(0, "api_key", (await plane.tenant.key()).id)
    assert (await plane.call(headers=LABELS)).status == 200


async def test_debt_refuses_the_next_call_and_is_shown(plane: Plane) -> None:
    usage = b'"usage":{"prompt_tokens":9000,"completion_tokens":9000}'
    plane.upstream.play = whole(OPENAI.reply[: OPENAI.reply.index(b'"usage"')] + usage + b"}")
    budget = await plane.tenant.budget(HOLD)
    assert (await plane.call()).status == 200
    cost = OPENAI.price(9000, 9000)
    assert (await plane.tenant.spent()).cost == cost
    assert cost > HOLD
    error = assert_refused(await plane.call(), 429, "budget_exceeded", surface=OPENAI, denied=True)
    assert error["details"]["budget_spend_microdollars"] == cost
    assert error["details"]["remaining_microdollars"] == 0
    assert (await plane.tenant.state(budget)).remaining == HOLD - cost
