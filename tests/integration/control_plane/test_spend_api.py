"""Recorded spend over HTTP: lists, filters, one call, and sums that equal the calls."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from control_plane.kernel import times
from shared.ids import uuid7
from tests.integration.control_plane.support import Installation, install, scope_of

DAY_MS = 86_400_000


async def page_through(org: Installation, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        reply = await org.admin.get("/api/cost-events", params=params)
        assert reply.status_code == 200, reply.text
        body = reply.json()
        found += body["data"]
        if not body["hasMore"]:
            return found
        params["cursor"] = json.dumps(body["cursor"])


async def test_a_call_reads_as_it_was_recorded(ready: Installation) -> None:
    budget = await ready.budget()
    call = await ready.spend(
        900,
        [scope_of(budget)],
        surface="chat_completions",
        session_id="s-1",
        trace_id="0" * 31 + "1",
        tags={"feature": "search"},
        action_id="0192aaaa-0000-7000-8000-000000000001",
        response_model="gpt-4o-2024-11-20",
        http_status=200,
        streaming=True,
        stop_reason="stop",
        usage={"input": 100, "output": 20},
        provider_request_id="req_1",
        price_ref="genai-prices@1/openai/gpt-4o#0",
        ttfb_ms=31,
        overhead_us=640,
        estimated_cost_microdollars=950,
        budget_status="approved",
        upstream_host="api.openai.com",
    )
    await ready.ingest.drain()
    record = (await ready.admin.get(f"/api/cost-events/ns_evt_{call.id}")).json()["data"]
    expected = {
        "id": f"ns_evt_{call.id}",
        "requestId": "req_1",
        "apiKeyId": f"ns_key_{ready.owner.service_key_id}",
        "keyName": "default",
        "provider": "openai",
        "model": "gpt-4o",
        "responseModel": "gpt-4o-2024-11-20",
        "inputTokens": 100,
        "outputTokens": 20,
        "cachedInputTokens": 0,
        "reasoningTokens": 0,
        "usage": {"input": 100, "output": 20},
        "costMicrodollars": 900,
        "originalCostMicrodollars": 900,
        "estimatedCostMicrodollars": 950,
        "costBreakdown": {"input": 600, "output": 300, "cached": 0, "tools": 0, "reasoning": 0},
        "costSource": "exact",
        "priced": True,
        "priceRef": "genai-prices@1/openai/gpt-4o#0",
        "durationMs": 300,
        "ttfbMs": 31,
        "overheadMicros": 640,
        "createdAt": "2026-09-21T14:13:20.000Z",
        "source": "proxy",
        "trust": "enforced",
        "eventType": "llm",
        "surface": "chat_completions",
        "outcome": "completed",
        "httpStatus": 200,
        "streaming": True,
        "stopReason": "stop",
        "toolCalls": [],
        "budgetStatus": "approved",
        "budgets": [{"budgetId": budget["id"], "windowStart": None}],
        "customerId": "acme",
        "sessionId": "s-1",
        "traceId": "0" * 31 + "1",
        "actionId": "ns_act_0192aaaa-0000-7000-8000-000000000001",
        "tags": {"feature": "search"},
        "upstreamHost": "api.openai.com",
        "flags": [],
        "revision": 0,
        "revisions": [],
    }
    recorded_at = record.pop("recordedAt")
    assert record == expected
    assert recorded_at.endswith("Z")


async def test_calls_of_one_millisecond_are_neither_lost_nor_repeated(ready: Installation) -> None:
    calls = {(await ready.record(1, requested_at_ms=1_790_000_000_000 + n // 9)).id for n in range(27)}
    await ready.ingest.drain()
    for limit in (1, 4, 100):
        seen = [row["id"].removeprefix("ns_evt_") for row in await page_through(ready, limit=limit)]
        assert len(seen) == 27
        assert set(seen) == calls
    rows = await page_through(ready, limit=5)
    assert rows == sorted(rows, key=lambda row: (row["createdAt"], row["id"]), reverse=True)


async def test_every_filter_narrows(ready: Installation) -> None:
    key = (await ready.admin.post("/api/keys", json={"name": "other"})).json()["data"]["id"]
    wanted: dict[str, Any] = {
        "provider": "anthropic",
        "model": "claude",
        "source": "sdk",
        "budget_status": "approved",
        "trace_id": "a" * 32,
        "session_id": "s-9",
        "customer_id": "beta",
        "event_type": "tool",
        "cost_source": "reported",
        "outcome": "refused",
        "priced": "false",
        "provider_request_id": "req_9",
        "tags": {"feature": "x", "n": "1"},
        "api_key_id": key.removeprefix("ns_key_"),
        "requested_at_ms": 1_790_000_500_000,
    }
    call = await ready.record(77, **wanted)
    for _ in range(3):
        await ready.record(5, tags={"feature": "y"})
    await ready.ingest.drain()
    filters = [
        {"provider": "anthropic"},
        {"model": "claude"},
        {"source": "sdk"},
        {"budgetStatus": "approved"},
        {"traceId": "a" * 32},
        {"sessionId": "s-9"},
        {"customerId": "beta"},
        {"eventType": "tool"},
        {"costSource": "reported"},
        {"outcome": "refused"},
        {"priced": "false"},
        {"requestId": "req_9"},
        {"apiKeyId": key},
        {"apiKeyId": key.removeprefix("ns_key_")},
        {"tag.feature": "x"},
        {"tag.feature": "x", "tag.n": "1"},
        {"minCost": 6},
        {"from": "2026-09-21T14:20:00Z"},
        {"from": "2026-09-21T16:20:00+02:00", "to": "2026-09-21T14:21:40.001Z"},
    ]
    for params in filters:
        rows = await page_through(ready, **params)
        assert [row["id"] for row in rows] == [f"ns_evt_{call.id}"], params
    assert len(await page_through(ready, maxCost=5)) == 3
    assert await page_through(ready, **{"tag.feature": "x", "tag.n": "2"}) == []
    assert await page_through(ready, to="2026-09-21T14:13:20Z") == []


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-01-01"}, "from"),
        ({"minCost": -1}, "minCost"),
        ({"minCost": 1.5}, "minCost"),
        ({"priced": "maybe"}, "priced"),
        ({"apiKeyId": "nope"}, "apiKeyId"),
        ({"tag.a\0b": "x"}, "tag"),
    ],
)
async def test_a_filter_that_makes_no_sense_is_refused(org: Installation, params: dict[str, Any], path: str) -> None:
    reply = await org.admin.get("/api/cost-events", params=params)
    assert reply.status_code == 400
    assert reply.json()["error"]["details"]["issues"][0]["path"] == [path]


async def test_another_organisations_calls_do_not_exist(ready: Installation) -> None:
    other = await install(ready.context)
    call = await other.record(5)
    await ready.ingest.drain()
    assert (await ready.admin.get(f"/api/cost-events/{call.id}")).status_code == 404
    assert (await other.admin.get(f"/api/cost-events/{call.id}")).status_code == 200
    assert await page_through(ready) == []
    assert (await ready.admin.get(f"/api/cost-events/{uuid7()}")).status_code == 404
    assert (await ready.admin.get("/api/cost-events/nonsense")).status_code == 404


async def test_a_summary_adds_up_in_every_direction(ready: Installation) -> None:
    key = (await ready.admin.post("/api/keys", json={"name": "second"})).json()["data"]["id"].removeprefix("ns_key_")
    start_ms = 1_790_000_000_000
    calls = [
        (100, {"model": "a", "provider": "openai"}),
        (50, {"model": "a", "provider": "openai", "api_key_id": key, "requested_at_ms": start_ms + DAY_MS}),
        (30, {"model": "b", "provider": "anthropic", "trace_id": "a" * 32, "source": "sdk"}),
        (7, {"model": "search", "provider": "mcp", "event_type": "tool", "duration_ms": 50, "priced": "false"}),
        (9, {"model": "a", "provider": "openai", "requested_at_ms": start_ms - 40 * DAY_MS}),
    ]
    for amount, fields in calls:
        await ready.record(amount, **fields)
    await ready.ingest.drain()
    params = {"from": "2026-09-20T00:00:00Z", "to": "2026-09-23T00:00:00Z"}
    found = (await ready.admin.get("/api/cost-events/summary", params=params)).json()["data"]
    assert found["totals"] == {"totalCostMicrodollars": 187, "totalRequests": 4, "period": None}
    assert found["daily"] == [
        {"date": "2026-09-20", "totalCostMicrodollars": 0, "requestCount": 0},
        {"date": "2026-09-21", "totalCostMicrodollars": 137, "requestCount": 3},
        {"date": "2026-09-22", "totalCostMicrodollars": 50, "requestCount": 1},
    ]
    assert found["models"][0] == {
        "provider": "openai",
        "model": "a",
        "totalCostMicrodollars": 150,
        "requestCount": 2,
        "inputTokens": 200,
        "outputTokens": 40,
        "cachedInputTokens": 0,
        "reasoningTokens": 0,
    }
    assert [(row["provider"], row["totalCostMicrodollars"]) for row in found["providers"]] == [
        ("openai", 150),
        ("anthropic", 30),
        ("mcp", 7),
    ]
    assert [(row["keyName"], row["totalCostMicrodollars"]) for row in found["keys"]] == [
        ("default", 137),
        ("second", 50),
    ]
    assert found["tools"] == [{"model": "search", "totalCostMicrodollars": 7, "requestCount": 1, "avgDurationMs": 50}]
    assert [(row["source"], row["requestCount"]) for row in found["sources"]] == [("proxy", 3), ("sdk", 1)]
    assert found["traces"] == [{"traceId": "a" * 32, "totalCostMicrodollars": 30, "requestCount": 1}]
    parts = found["costBreakdown"]
    assert parts["inputCost"] + parts["outputCost"] + parts["cachedCost"] + parts["toolsCost"] == 187
    assert found["unpricedRequests"] == 1
    before = {"from": "2026-08-12T14:00:00Z", "to": "2026-08-12T15:00:00Z"}
    old = (await ready.admin.get("/api/cost-events/summary", params=before)).json()["data"]
    assert old["totals"]["totalCostMicrodollars"] == 9
    after = {"from": "2026-08-12T15:00:00Z", "to": "2026-08-12T16:00:00Z"}
    assert (await ready.admin.get("/api/cost-events/summary", params=after)).json()["data"]["previous"] == {
        "totalCostMicrodollars": 9,
        "totalRequests": 1,
    }


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"])
async def test_the_days_of_a_summary_are_local_days_and_its_edges_exact(ready: Installation, zone: str) -> None:
    start = datetime(2026, 10, 3, 10, 20, tzinfo=UTC)
    instants = [start + timedelta(minutes=37 * n) for n in range(120)]
    for instant in instants:
        await ready.record(1, requested_at_ms=times.to_ms(instant))
    await ready.ingest.drain()
    low, high = start + timedelta(minutes=50), start + timedelta(hours=60, minutes=11)
    params = {"from": low.isoformat(), "to": high.isoformat(), "timezone": zone}
    found = (await ready.admin.get("/api/cost-events/summary", params=params)).json()["data"]
    inside = [instant for instant in instants if low <= instant < high]
    assert found["totals"]["totalRequests"] == len(inside)
    expected: dict[str, int] = {}
    for instant in inside:
        day = instant.astimezone(ZoneInfo(zone)).date().isoformat()
        expected[day] = expected.get(day, 0) + 1
    assert {row["date"]: row["requestCount"] for row in found["daily"] if row["requestCount"]} == expected


async def test_a_period_is_local_days_up_to_now(ready: Installation) -> None:
    now_ms = await ready.context.ledger.now_ms()
    await ready.record(5, requested_at_ms=now_ms)
    await ready.record(6, requested_at_ms=now_ms - 6 * DAY_MS)
    await ready.record(7, requested_at_ms=now_ms - 7 * DAY_MS)
    await ready.ingest.drain()
    found = (await ready.admin.get("/api/cost-events/summary", params={"period": "7d"})).json()["data"]
    assert len(found["daily"]) == 7
    assert found["totals"] == {"totalCostMicrodollars": 11, "totalRequests": 2, "period": "7d"}
    default = (await ready.admin.get("/api/cost-events/summary")).json()["data"]
    assert (default["totals"]["period"], len(default["daily"])) == ("30d", 30)


async def test_an_organisation_without_calls_has_a_summary_of_zeros(org: Installation) -> None:
    found = (await org.admin.get("/api/cost-events/summary")).json()["data"]
    assert found["totals"]["totalRequests"] == 0
    assert found["models"] == []


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"period": "1d"}, "period"),
        ({"period": "7d", "from": "2026-01-01T00:00:00Z"}, "period"),
        ({"to": "2026-01-01T00:00:00Z"}, "from"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "to"),
        ({"from": "2020-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "to"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
    ],
)
async def test_a_range_that_makes_no_sense_is_refused(org: Installation, params: dict[str, Any], path: str) -> None:
    reply = await org.admin.get("/api/cost-events/summary", params=params)
    assert reply.status_code == 400
    assert reply.json()["error"]["details"]["issues"][0]["path"] == [path]
