"""Budgets over HTTP, with the ledger's own numbers."""

import json
from typing import Any

import pytest

from shared import redis_keys
from shared.budgets import decode_budgets
from shared.ids import BUDGET, uuid7
from shared.ledger import Denied, NoLimit, Ok, StalePolicy
from shared.windows import Window
from tests.integration.control_plane.support import Installation, install, scope_of


async def limit_row(org: Installation, budget_id: str) -> dict[bytes, bytes]:
    key = redis_keys.limit(redis_keys.tag(org.org_id), budget_id.removeprefix(BUDGET))
    flat = await org.context.redis.execute(["HGETALL", key])
    return dict(zip(flat[::2], flat[1::2], strict=True))


async def definition(org: Installation, entity: str) -> tuple[Any, ...]:
    key = redis_keys.policy(redis_keys.tag(org.org_id), org.org_id, entity)
    return decode_budgets(await org.context.redis.execute(["HGET", key, "body"]))


async def test_a_new_budget_is_created_and_in_force_when_the_answer_arrives(ready: Installation) -> None:
    budget = await ready.budget(1_000, resetInterval="monthly", timezone="Asia/Kolkata")
    assert budget["maxBudgetMicrodollars"] == 1_000
    assert (budget["spendMicrodollars"], budget["reservedMicrodollars"], budget["remainingMicrodollars"]) == (
        0,
        0,
        1_000,
    )
    assert budget["policy"] == "strict_block"
    assert (budget["resetInterval"], budget["windowMode"]) == ("monthly", "calendar")
    assert budget["currentPeriodStart"].endswith("T18:30:00.000Z")
    assert budget["resetsAt"] == budget["currentPeriodEnd"]
    assert budget["enforcement"]["policyVersion"] == await ready.policy_version()
    assert budget["enforcement"]["publishedAt"] is not None
    assert await limit_row(ready, budget["id"]) == {b"version": b"1", b"deleted": b"0", b"limit": b"1000"}
    (published,) = await definition(ready, "customer:acme")
    assert published.id == budget["id"].removeprefix(BUDGET)
    assert published.window == Window("month", "calendar", "Asia/Kolkata")


async def test_the_numbers_are_the_ledgers(ready: Installation) -> None:
    budget = await ready.budget(1_000)
    scope = scope_of(budget)
    await ready.spend(300, [scope])
    held = ready.event()
    assert isinstance(await ready.reserve(held, 250, [scope]), Ok)
    for path in (f"/api/budgets/{budget['id']}", "/api/budgets"):
        found = (await ready.admin.get(path)).json()["data"]
        row = found[0] if isinstance(found, list) else found
        assert (row["spendMicrodollars"], row["reservedMicrodollars"], row["remainingMicrodollars"]) == (300, 250, 450)
    await ready.settle(held, 900, [scope])
    over = (await ready.admin.get(f"/api/budgets/{budget['id']}")).json()["data"]
    assert (over["remainingMicrodollars"], over["overrunMicrodollars"]) == (0, 200)


async def test_the_same_entity_is_changed_and_not_created_again(ready: Installation) -> None:
    budget = await ready.budget(1_000, resetInterval="daily")
    body = {"entityType": "customer", "entityId": "acme", "maxBudgetMicrodollars": 5_000}
    reply = await ready.admin.post("/api/budgets", json=body)
    assert reply.status_code == 200
    changed = reply.json()["data"]
    assert changed["id"] == budget["id"]
    assert (changed["maxBudgetMicrodollars"], changed["resetInterval"], changed["version"]) == (5_000, "daily", 2)
    assert (await limit_row(ready, budget["id"]))[b"limit"] == b"5000"


async def test_a_lowered_limit_binds_the_next_call(ready: Installation) -> None:
    budget = await ready.budget(1_000)
    scope = scope_of(budget)
    old_version = await ready.policy_version()
    reply = await ready.admin.patch(f"/api/budgets/{budget['id']}", json={"maxBudgetMicrodollars": 10})
    assert reply.status_code == 200
    assert await ready.policy_version() == old_version + 1
    assert isinstance(await ready.reserve(ready.event(), 11, [scope]), Denied)
    assert isinstance(await ready.reserve(ready.event(), 10, [scope]), Ok)


async def test_a_limit_of_zero_blocks_every_call_that_costs(ready: Installation) -> None:
    scope = scope_of(await ready.budget(0))
    assert isinstance(await ready.reserve(ready.event(), 1, [scope]), Denied)
    assert isinstance(await ready.reserve(ready.event(), 0, [scope]), Ok)


@pytest.mark.parametrize(
    "change",
    [
        {"resetInterval": "weekly"},
        {"resetInterval": None},
        {"resetInterval": "none"},
        {"timezone": "Europe/Paris"},
        {"windowMode": "anniversary"},
        {"windowMode": "anniversary", "anchorAt": "2026-01-31T10:00:00Z"},
    ],
)
async def test_a_window_definition_cannot_be_changed_and_the_message_says_what_to_do(
    org: Installation, change: dict[str, Any]
) -> None:
    budget = await org.budget(1_000, resetInterval="daily")
    upsert = {"entityType": "customer", "entityId": "acme", **change}
    for reply in (
        await org.admin.patch(f"/api/budgets/{budget['id']}", json=change),
        await org.admin.post("/api/budgets", json=upsert),
    ):
        assert reply.status_code == 400
        error = reply.json()["error"]
        assert {issue["path"][0] for issue in error["details"]["issues"]} <= {*change, "anchorAt"}
        assert "archive this budget and create it anew" in error["message"]
        assert "forget what was spent" in error["message"]
    same = await org.admin.patch(f"/api/budgets/{budget['id']}", json={"resetInterval": "daily", "timezone": "UTC"})
    assert same.status_code == 200


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"maxBudgetMicrodollars": -1}, "maxBudgetMicrodollars"),
        ({"maxBudgetMicrodollars": 1.0}, "maxBudgetMicrodollars"),
        ({"maxBudgetMicrodollars": "100"}, "maxBudgetMicrodollars"),
        ({"maxBudgetMicrodollars": True}, "maxBudgetMicrodollars"),
        ({"maxBudgetMicrodollars": None}, "maxBudgetMicrodollars"),
        ({"maxBudgetMicrodollars": 2**53}, "maxBudgetMicrodollars"),
        ({"maxBudgetMicrodollars": 10**30}, "maxBudgetMicrodollars"),
        ({"policy": "soft_block"}, "policy"),
        ({"policy": "warn"}, "policy"),
        ({"resetInterval": "fortnightly"}, "resetInterval"),
        ({"windowMode": "rolling"}, "windowMode"),
        ({"windowMode": "billing"}, "windowMode"),
        ({"windowMode": "anniversary"}, "windowMode"),
        ({"anchorAt": "2026-01-01T00:00:00Z"}, "anchorAt"),
        ({"anchorAt": 5, "resetInterval": "daily", "windowMode": "anniversary"}, "anchorAt"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "localtime"}, "timezone"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"thresholdPercentages": [50]}, "thresholdPercentages"),
        ({"velocityLimitMicrodollars": 5}, "velocityLimitMicrodollars"),
        ({"sessionLimitMicrodollars": 5}, "sessionLimitMicrodollars"),
        ({"finalizationReserveMicrodollars": 5}, "finalizationReserveMicrodollars"),
        ({"overdraft": {"mode": "none"}}, "overdraft"),
        ({"slot": "plan"}, "slot"),
        ({"maxBudget": 5}, "maxBudget"),
        ({"entityType": "agent"}, "entityType"),
        ({"entityType": "customer", "entityId": "*"}, "entityId"),
        ({"entityType": "customer", "entityId": None}, "entityId"),
        ({"entityType": "tag", "entityId": "feature"}, "entityId"),
        ({"entityType": "tag", "entityId": "_ns_x=1"}, "entityId"),
    ],
)
async def test_what_cannot_be_enforced_is_refused_and_never_stored(
    org: Installation, fields: dict[str, Any], path: str
) -> None:
    body = {"entityType": "customer", "entityId": "acme", "maxBudgetMicrodollars": 5, **fields}
    reply = await org.admin.post("/api/budgets", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["code"] == "validation_error"
    assert reply.json()["error"]["details"]["issues"][0]["path"][0] == path
    assert (await org.admin.get("/api/budgets")).json()["data"] == []


@pytest.mark.parametrize("number", ["1e400", "NaN", "Infinity", "1.5e3", "-0.0"])
async def test_a_number_that_is_no_whole_number_is_a_validation_error(org: Installation, number: str) -> None:
    body = f'{{"entityType":"customer","entityId":"acme","maxBudgetMicrodollars":{number}}}'
    reply = await org.admin.post("/api/budgets", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] in {"validation_error", "invalid_json"}


async def test_a_new_budget_needs_a_limit(org: Installation) -> None:
    reply = await org.admin.post("/api/budgets", json={"entityType": "customer", "entityId": "acme"})
    assert reply.status_code == 400
    assert reply.json()["error"]["details"]["issues"][0]["path"] == ["maxBudgetMicrodollars"]


async def test_every_kind_of_entity_is_published_under_the_name_calls_look_for(org: Installation) -> None:
    key_id = org.owner.service_key_id
    cases = [
        ("org", None, f"ns_org_{org.org_id}", f"org:{org.org_id}"),
        ("api_key", f"ns_key_{key_id}", f"ns_key_{key_id}", f"api_key:{key_id}"),
        ("customer", "acme", "acme", "customer:acme"),
        ("tag", "feature=search", "feature=search", "tag:feature=search"),
    ]
    for entity_type, given, shown, name in cases:
        body = {"entityType": entity_type, "maxBudgetMicrodollars": 5} | ({} if given is None else {"entityId": given})
        reply = await org.admin.post("/api/budgets", json=body)
        assert reply.status_code == 201, reply.text
        assert reply.json()["data"]["entityId"] == shown
        assert len(await definition(org, name)) == 1
        listed = await org.admin.get("/api/budgets", params={"entityType": entity_type, "entityId": shown})
        assert len(listed.json()["data"]) == 1


async def test_a_tag_named_customer_is_that_customer(org: Installation) -> None:
    budget = await org.budget()
    body = {"entityType": "tag", "entityId": "customer=acme", "maxBudgetMicrodollars": 7}
    reply = await org.admin.post("/api/budgets", json=body)
    assert reply.status_code == 200
    assert reply.json()["data"]["id"] == budget["id"]
    assert reply.json()["data"]["entityType"] == "customer"


async def test_a_budget_of_an_entity_that_does_not_exist_is_404(org: Installation) -> None:
    other = await install(org.context)
    for body in (
        {"entityType": "api_key", "entityId": uuid7()},
        {"entityType": "api_key", "entityId": other.owner.service_key_id},
        {"entityType": "org", "entityId": other.org_id},
    ):
        reply = await org.admin.post("/api/budgets", json={**body, "maxBudgetMicrodollars": 5})
        assert reply.status_code == 404
        assert reply.json()["error"]["code"] == "budget_entity_not_found"


async def test_a_reset_opens_a_new_window_and_leaves_the_old_one_as_it_is(ready: Installation) -> None:
    budget = await ready.budget(1_000)
    old = scope_of(budget)
    await ready.spend(600, [old])
    held = ready.event()
    await ready.reserve(held, 300, [old])
    reply = await ready.admin.post(f"/api/budgets/{budget['id']}/reset")
    assert reply.status_code == 200
    fresh = reply.json()["data"]
    assert (fresh["spendMicrodollars"], fresh["reservedMicrodollars"]) == (0, 0)
    assert fresh["currentPeriodStart"] is not None
    await ready.settle(held, 250, [old])
    after = (await ready.admin.get(f"/api/budgets/{budget['id']}")).json()["data"]
    assert after["spendMicrodollars"] == 0
    state = await ready.context.redis.execute(
        ["HMGET", redis_keys.window(redis_keys.tag(ready.org_id), old.window_id), "settled", "held"]
    )
    assert state == [b"850", b"0"]


async def test_the_older_path_of_a_reset_works_and_refuses_fields(org: Installation) -> None:
    budget = await org.budget()
    assert (await org.admin.post(f"/api/budgets/{budget['id']}")).status_code == 200
    assert (await org.admin.post(f"/api/budgets/{budget['id']}", json={})).status_code == 200
    assert (await org.admin.post(f"/api/budgets/{budget['id']}/reset", json={"at": 1})).status_code == 400


async def test_an_archived_budget_refuses_nothing_and_its_holds_still_settle(ready: Installation) -> None:
    budget = await ready.budget(1_000)
    scope, held = scope_of(budget), ready.event()
    version = await ready.policy_version()
    await ready.reserve(held, 300, [scope])
    reply = await ready.admin.delete(f"/api/budgets/{budget['id']}")
    assert reply.json() == {"data": {"id": budget["id"], "deleted": True}, "deleted": True, "success": True}
    assert await definition(ready, "customer:acme") == ()
    assert (await limit_row(ready, budget["id"]))[b"deleted"] == b"1"
    assert await ready.policy_version() == version + 1
    assert isinstance(await ready.reserve(ready.event(), 5, [scope]), StalePolicy)
    await ready.settle(held, 250, [scope])
    archived = (await ready.admin.get("/api/budgets", params={"status": "archived"})).json()["data"]
    assert [row["spendMicrodollars"] for row in archived] == [250]
    assert (await ready.admin.get("/api/budgets")).json()["data"] == []
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/reset")):
        again = await ready.admin.request(method, f"/api/budgets/{budget['id']}{path}", json={})
        assert again.status_code == 404, method
    anew = await ready.budget(77)
    assert anew["id"] != budget["id"]
    assert [row.id for row in await definition(ready, "customer:acme")] == [anew["id"].removeprefix(BUDGET)]


async def test_another_organisations_budget_does_not_exist(org: Installation) -> None:
    other = await install(org.context)
    theirs = await other.budget()
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"maxBudgetMicrodollars": 0}),
        ("DELETE", "", None),
        ("POST", "", None),
        ("POST", "/reset", None),
    ):
        reply = await org.admin.request(method, f"/api/budgets/{theirs['id']}{path}", json=body)
        assert reply.status_code == 404, (method, path)
    assert (await other.admin.get(f"/api/budgets/{theirs['id']}")).json()["data"]["version"] == 1


async def test_budgets_come_in_one_page_or_in_as_many_as_asked_for(org: Installation) -> None:
    for number in range(5):
        await org.budget(5, entityId=f"c{number}")
    whole = (await org.admin.get("/api/budgets")).json()
    assert [row["entityId"] for row in whole["data"]] == ["c4", "c3", "c2", "c1", "c0"]
    assert (whole["hasMore"], whole["cursor"]) == (False, None)
    first = (await org.admin.get("/api/budgets", params={"limit": 3})).json()
    assert first["hasMore"]
    rest = (await org.admin.get("/api/budgets", params={"limit": 3, "cursor": json.dumps(first["cursor"])})).json()
    assert [row["entityId"] for row in first["data"] + rest["data"]] == ["c4", "c3", "c2", "c1", "c0"]


@pytest.mark.parametrize(
    "cursor",
    ["x", "{}", "[]", '{"createdAt":"yesterday","id":"x"}', '{"createdAt":"2026-01-01T00:00:00Z","id":5}', "[" * 400],
)
async def test_a_cursor_that_no_list_returned_is_refused(org: Installation, cursor: str) -> None:
    for path in ("/api/budgets", "/api/keys", "/api/cost-events"):
        reply = await org.admin.get(path, params={"cursor": cursor})
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "invalid_cursor"


async def test_an_unpublished_budget_is_never_read_as_no_budget(ready: Installation) -> None:
    budget = await ready.budget(1_000)
    key = redis_keys.limit(redis_keys.tag(ready.org_id), budget["id"].removeprefix(BUDGET))
    await ready.context.redis.execute(["DEL", key])
    assert isinstance(await ready.reserve(ready.event(), 5, [scope_of(budget)]), NoLimit)
