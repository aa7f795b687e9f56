"""What the API answers is what its document promises: no field more, none less, every number whole."""

from typing import Any

import pytest

from control_plane import health
from control_plane.budgets import schemas as budgets
from control_plane.kernel.fields import DeletedBody, ErrorBody, ResponseModel
from control_plane.keys import api as keys
from control_plane.spend import schemas as spend
from tests.integration.control_plane.support import Installation, scope_of


def assert_shape(model: type[ResponseModel], body: Any) -> None:
    """The body, read as the documented model and written again, is the body."""
    assert model.model_validate(body, strict=True).wire() == body
    assert_no_fractions(body)


def assert_no_fractions(value: Any) -> None:
    assert not isinstance(value, float), value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        assert_no_fractions(part)


async def test_keys_have_their_documented_shapes(org: Installation) -> None:
    made = (await org.admin.post("/api/keys", json={"name": "a", "expiresAt": "2090-01-01T00:00:00Z"})).json()
    assert_shape(keys.MintedKeyBody, made)
    path = f"/api/keys/{made['data']['id']}"
    assert_shape(keys.WrittenKeyBody, (await org.admin.patch(path, json={"name": "b"})).json())
    assert_shape(keys.KeyBody, (await org.admin.get(path)).json())
    assert_shape(keys.KeyList, (await org.admin.get("/api/keys", params={"limit": 1})).json())
    assert_shape(DeletedBody, (await org.admin.delete(path)).json())


async def test_budgets_have_their_documented_shapes(ready: Installation) -> None:
    anniversary = {"resetInterval": "monthly", "windowMode": "anniversary", "anchorAt": "2026-01-31T10:00:00Z"}
    made = await ready.budget(1_000, **anniversary)
    assert_shape(budgets.BudgetBody, {"data": made})
    path = f"/api/budgets/{made['id']}"
    changed = await ready.admin.patch(path, json={"maxBudgetMicrodollars": 2**53 - 1})
    assert_shape(budgets.BudgetBody, changed.json())
    assert changed.json()["data"]["remainingMicrodollars"] == 2**53 - 1
    assert_shape(budgets.BudgetBody, (await ready.admin.post(f"{path}/reset")).json())
    assert_shape(budgets.BudgetBody, (await ready.admin.get(path)).json())
    assert_shape(budgets.BudgetList, (await ready.admin.get("/api/budgets", params={"limit": 1})).json())
    assert_shape(DeletedBody, (await ready.admin.delete(path)).json())


async def test_recorded_calls_have_their_documented_shapes(ready: Installation) -> None:
    scope = scope_of(await ready.budget())
    for _ in range(2):
        call = await ready.spend(5, [scope], trace_id="a" * 32, tool_calls=[{"name": "search", "id": "call_1"}])
    await ready.record(5, event_type="tool")
    await ready.ingest.drain()
    assert_shape(spend.CostEventList, (await ready.admin.get("/api/cost-events", params={"limit": 1})).json())
    assert_shape(spend.CostEventBody, (await ready.admin.get(f"/api/cost-events/{call.id}")).json())
    assert_shape(spend.SummaryBody, (await ready.admin.get("/api/cost-events/summary")).json())


async def test_refusals_and_health_have_their_documented_shapes(org: Installation) -> None:
    for reply in (
        await org.admin.get("/nope"),
        await org.client(None).get("/api/keys"),
        await org.admin.post("/api/keys", json={}),
    ):
        assert_shape(ErrorBody, reply.json())
    assert_shape(health.Readiness, (await org.client(None).get("/health/ready")).json())
    version = (await org.client(None).get("/api/version")).json()
    assert health.Version.model_validate(version, strict=True).model_dump() == version


@pytest.mark.parametrize("name", ["BudgetUpsert", "BudgetPatch", "KeyCreate", "KeyPatch"])
async def test_requests_that_configure_something_are_closed(org: Installation, name: str) -> None:
    document = (await org.client(None).get("/openapi.json")).json()
    schema = document["components"]["schemas"][name]
    assert schema["additionalProperties"] is False
    assert all("_" not in field for field in schema["properties"])


async def test_money_is_documented_as_an_exact_bounded_integer(org: Installation) -> None:
    document = (await org.client(None).get("/openapi.json")).json()
    money = document["components"]["schemas"]["BudgetUpsert"]["properties"]["maxBudgetMicrodollars"]
    (number,) = [option for option in money["anyOf"] if option["type"] == "integer"]
    assert (number["minimum"], number["maximum"]) == (0, 2**53 - 1)
