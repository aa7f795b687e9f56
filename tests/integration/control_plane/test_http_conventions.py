"""What holds for every route: envelopes, ids, limits, access, idempotency, the document."""

import asyncio
import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from control_plane.kernel.db import Database, Session
from control_plane.settings import Settings
from shared.ids import new_api_key
from tests.integration.control_plane.support import Installation, app_of

READS = ("/api/keys", "/api/budgets", "/api/cost-events", "/api/cost-events/summary")


async def test_every_answer_carries_the_common_headers(org: Installation) -> None:
    for path in (*READS, "/api/health", "/nope"):
        reply = await org.admin.get(path, headers={"X-Request-Id": "mine-1"})
        assert reply.headers["X-Request-Id"] == "mine-1"
        assert reply.headers["NullSpend-Version"] == "2026-04-01"
        assert reply.headers["Cache-Control"] == "private, no-store"
        assert "X-NullSpend-Key" in reply.headers["Vary"]
    odd = await org.admin.get(
        "/api/version", headers={"X-Request-Id": "not a valid id!", "NullSpend-Version": "1999-01-01"}
    )
    assert re.fullmatch(r"[0-9a-f-]{36}", odd.headers["X-Request-Id"])
    assert odd.headers["X-NullSpend-Warning"] == "unsupported_version"


async def test_errors_share_one_envelope(org: Installation) -> None:
    replies = [
        await org.admin.get("/nope"),
        await org.admin.put("/api/keys"),
        await org.client(None).get("/api/keys"),
        await org.admin.get("/api/keys", params={"limit": 0}),
        await org.admin.post("/api/keys", content=b"{", headers={"Content-Type": "application/json"}),
    ]
    codes = ["not_found", "method_not_allowed", "authentication_required", "validation_error", "invalid_json"]
    for reply, code in zip(replies, codes, strict=True):
        error = reply.json()["error"]
        assert error["code"] == code
        assert error["request_id"] == reply.headers["X-Request-Id"]
        assert set(error["recovery"]) == {"retryable", "owner_action_required", "retry_after_seconds", "docs"}


async def test_bodies_are_json_and_bounded(org: Installation) -> None:
    text_reply = await org.admin.post("/api/keys", content=b"name=a", headers={"Content-Type": "text/plain"})
    assert (text_reply.status_code, text_reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    large = b'{"name":"' + b"a" * 1_100_000 + b'"}'
    for content in (large, _chunks(large)):
        reply = await org.admin.post("/api/keys", content=content, headers={"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "payload_too_large")


async def _chunks(body: bytes) -> Any:
    for start in range(0, len(body), 65_536):
        yield body[start : start + 65_536]


async def test_a_crash_is_an_envelope_without_its_reason(org: Installation, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_session: Session, _org_id: UUID) -> dict[UUID, str]:
        raise ValueError("a defect nobody may read about")

    org.app = app_of(replace(org.context, key_names=broken))
    reply = await org.admin.get("/api/cost-events")
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal_error"
    assert "defect" not in reply.text
    assert reply.headers["X-Request-Id"] in caplog.text
    assert "a defect nobody may read about" in caplog.text


async def test_a_database_without_its_tables_is_an_outage_and_not_a_defect(
    org: Installation, bare_database_url: str
) -> None:
    bare = Database(bare_database_url, pool=2)
    org.app = app_of(replace(org.context, database=bare))
    assert (await org.client(None).get("/api/health")).status_code == 503
    reply = await org.admin.get("/api/cost-events")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "service_unavailable")
    assert reply.headers["Retry-After"] == "30"
    await bare.close()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-NullSpend-Key": ""},
        {"X-NullSpend-Key": "ns_live_sk_short"},
        {"X-NullSpend-Key": new_api_key()},
        {"Authorization": f"Bearer {new_api_key()}"},
        {"Authorization": "Basic abc"},
    ],
)
async def test_a_missing_malformed_or_unknown_key_is_401_alike(org: Installation, headers: dict[str, str]) -> None:
    reply = await org.client(None).get("/api/keys", headers=headers)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "authentication_required"


async def test_a_bearer_token_works_and_the_key_header_decides(org: Installation) -> None:
    bearer = {"Authorization": f"bearer {org.owner.admin_key}"}
    assert (await org.client(None).get("/api/keys", headers=bearer)).status_code == 200
    both = {**bearer, "X-NullSpend-Key": new_api_key()}
    assert (await org.client(None).get("/api/keys", headers=both)).status_code == 401


@pytest.mark.parametrize("change", ["expired", "removed", "disabled"])
async def test_a_key_ends_with_its_time_and_with_its_owner(org: Installation, change: str) -> None:
    statement = {
        "expired": "UPDATE api_keys SET expires_at = now() WHERE org_id = :org",
        "removed": "DELETE FROM org_memberships WHERE org_id = :org",
        "disabled": "UPDATE service_accounts SET disabled_at = now() WHERE org_id = :org",
    }[change]
    async with org.context.database.transaction() as session:
        await session.execute(text(statement), {"org": org.org_id})
    owners = (await org.admin.get("/api/keys")).status_code
    accounts = (await org.client(org.owner.service_key).get("/api/keys")).status_code
    assert (owners, accounts) == {"expired": (401, 401), "removed": (401, 200), "disabled": (200, 401)}[change]


async def test_every_route_asks_for_the_scope_its_document_names(org: Installation) -> None:
    document = (await org.client(None).get("/openapi.json")).json()
    keys = {}
    for scope in ("proxy", "ingest", "read", "admin"):
        reply = await org.admin.post("/api/keys", json={"name": scope, "scopes": [scope]})
        keys[scope] = org.client(reply.json()["data"]["rawKey"])
    implied = {"read": {"read", "admin"}, "admin": {"admin"}}
    checked = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            wanted = operation.get("x-required-scope")
            if wanted is None:
                continue
            url = re.sub(r"\{\w+\}", "0192aaaa-0000-7000-8000-000000000001", path)
            assert (await org.client(None).request(method, url, json={})).status_code == 401, url
            for scope, client in keys.items():
                reply = await client.request(method, url, json={} if method in {"post", "patch"} else None)
                assert (reply.status_code == 403) == (scope not in implied[wanted]), (method, url, scope, reply.text)
                if reply.status_code == 403:
                    assert reply.json()["error"]["details"] == {"required_scope": wanted}
            checked.add(operation["operationId"])
    assert len(checked) >= 15


async def test_a_members_key_has_no_more_power_than_a_member(org: Installation) -> None:
    async with org.context.database.transaction() as session:
        await session.execute(
            text("UPDATE api_keys SET scopes = '{proxy,ingest,read,admin}' WHERE id = :key"),
            {"key": org.owner.service_key_id},
        )
    client = org.client(org.owner.service_key)
    assert (await client.get("/api/keys")).status_code == 200
    assert (await client.post("/api/keys", json={"name": "x"})).status_code == 403


async def test_an_idempotency_key_makes_one_effect_of_many_requests(org: Installation) -> None:
    headers = {"Idempotency-Key": "retry-1"}
    first = await org.admin.post("/api/keys", json={"name": "a"}, headers=headers)
    again = await org.admin.post("/api/keys", json={"name": "a"}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert "X-Idempotent-Replayed" not in first.headers
    assert again.headers["X-Idempotent-Replayed"] == "true"
    assert again.json()["data"] == {**first.json()["data"], "rawKey": None}
    assert first.json()["data"]["rawKey"] is not None
    assert len((await org.admin.get("/api/keys")).json()["data"]) == 3
    other = await org.admin.post("/api/keys", json={"name": "b"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    reordered = {"entityId": "c", "entityType": "customer", "maxBudgetMicrodollars": 5}
    made = await org.admin.post("/api/budgets", json=reordered, headers=headers)
    assert made.status_code == 201, "the same key on another route is another request"
    same = await org.admin.post("/api/budgets", json=dict(reversed(reordered.items())), headers=headers)
    assert same.json() == made.json()


async def test_a_secret_is_not_kept_for_repetitions(org: Installation) -> None:
    reply = await org.admin.post("/api/keys", json={"name": "a"}, headers={"Idempotency-Key": "s"})
    async with org.context.database.read_only() as session:
        stored = await session.scalar(
            text("SELECT response::text FROM idempotency_keys WHERE org_id = :org"), {"org": org.org_id}
        )
    assert reply.json()["data"]["rawKey"] not in stored


async def test_a_refused_request_is_not_remembered(org: Installation) -> None:
    headers = {"Idempotency-Key": "later"}
    body = {"entityType": "api_key", "entityId": "0192aaaa-0000-7000-8000-000000000001", "maxBudgetMicrodollars": 1}
    assert (await org.admin.post("/api/budgets", json=body, headers=headers)).status_code == 404
    assert (await org.admin.post("/api/budgets", json=body, headers=headers)).status_code == 404


async def test_parallel_requests_with_one_key_have_one_effect(org: Installation) -> None:
    client, headers = org.admin, {"Idempotency-Key": "together"}
    replies = await asyncio.gather(*(client.post("/api/keys", json={"name": "a"}, headers=headers) for _ in range(6)))
    assert {reply.status_code for reply in replies} <= {201, 503}
    for reply in replies:
        if reply.status_code == 503:
            assert reply.json()["error"]["code"] == "request_in_progress"
            assert reply.headers["Retry-After"] == "1"
    assert len((await org.admin.get("/api/keys")).json()["data"]) == 3


async def test_a_repetition_by_a_revoked_key_is_401(org: Installation) -> None:
    key = (await org.admin.post("/api/keys", json={"name": "k", "scopes": ["admin"]})).json()["data"]
    client, headers = org.client(key["rawKey"]), {"Idempotency-Key": "gone"}
    assert (await client.post("/api/keys", json={"name": "a", "scopes": ["read"]}, headers=headers)).status_code == 201
    await org.admin.delete(f"/api/keys/{key['id']}")
    assert (await client.post("/api/keys", json={"name": "a", "scopes": ["read"]}, headers=headers)).status_code == 401


@pytest.mark.parametrize("key", ["", "x" * 257, "a\tb"])
async def test_an_idempotency_key_is_short_printable_ascii(org: Installation, key: str) -> None:
    reply = await org.admin.post("/api/keys", json={"name": "a"}, headers={"Idempotency-Key": key})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_idempotency_key")


async def test_the_details_of_health_are_for_operators(org: Installation) -> None:
    assert (await org.client(None).get("/api/health")).json() == {"status": "ok"}
    assert (await org.client(None).get("/api/health?verbose=1")).status_code == 404
    assert (await org.client(org.owner.service_key).get("/api/health?verbose=1")).status_code == 404
    shown = (await org.admin.get("/api/health?verbose=1")).json()
    assert set(shown["components"]) == {
        "database",
        "schema",
        "redis",
        "ledger",
        "worker",
        "outbox_age_seconds",
        "parked_entries",
    }
    settings = org.context.settings
    with_secret = Settings(
        database_url=settings.database_url,
        redis_url=settings.redis_url,
        ops_secret="hush",
    )
    org.app = app_of(replace(org.context, settings=with_secret))
    assert (
        await org.client(None).get("/api/health?verbose=1", headers={"x-ops-health-secret": "hush"})
    ).status_code == 200
    assert (
        await org.client(None).get("/api/health?verbose=1", headers={"x-ops-health-secret": "no"})
    ).status_code == 404


async def test_readiness_tells_serving_from_enforcing(org: Installation) -> None:
    reply = await org.client(None).get("/health/ready")
    assert reply.status_code == 503
    assert (reply.json()["serving"], reply.json()["enforcing"]) == (True, False)


async def test_the_reference_page_loads_nothing_from_elsewhere(org: Installation) -> None:
    client = org.client(None)
    page = await client.get("/docs")
    assert "http" not in page.text.replace("<!doctype html>", "")
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert (await client.get(path)).status_code == 200, path


async def test_the_document_is_complete(org: Installation) -> None:
    document = (await org.client(None).get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    operations = [op for path in document["paths"].values() for op in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        assert len(operation["tags"]) == 1
        assert "422" not in operation["responses"]
        if "x-required-scope" in operation:
            assert operation["x-error-codes"]
            assert operation["security"]
