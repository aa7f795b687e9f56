"""API keys over HTTP, and the grants that come of them."""

import hashlib

import pytest

from shared import redis_keys
from shared.grants import Grant, decode_grant
from shared.ids import uuid7
from tests.integration.control_plane.support import Installation, install


async def grant_of(org: Installation, secret: str) -> Grant:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return decode_grant(await org.context.redis.execute(["HGET", redis_keys.grant(digest), "body"]))


async def test_a_minted_key_is_shown_once_and_published_before_the_answer(org: Installation) -> None:
    body = {
        "name": "prod",
        "defaultTags": {"feature": "search"},
        "allowedModels": ["gpt-4o*"],
        "allowedProviders": ["openai"],
        "customerId": "acme",
        "expiresAt": "2090-01-01T00:00:00Z",
    }
    reply = await org.admin.post("/api/keys", json=body)
    assert reply.status_code == 201
    key = reply.json()["data"]
    secret = key["rawKey"]
    assert secret.startswith("ns_live_sk_")
    assert key["keyPrefix"] == secret[:19]
    assert key["scopes"] == ["proxy", "ingest", "read"]
    assert key["owner"] == {"type": "user", "id": f"ns_usr_{org.owner.owner_id}"}
    assert key["enforcement"]["publishedAt"] is not None
    grant = await grant_of(org, secret)
    assert grant.scopes == ("proxy", "ingest", "read")
    assert grant.default_tags == {"feature": "search"}
    assert grant.allowed_models == ("gpt-4o*",)
    assert grant.allowed_providers == ("openai",)
    assert grant.customer_id == "acme"
    assert grant.expires_at_ms == 3_786_912_000_000
    for path in (f"/api/keys/{key['id']}", "/api/keys"):
        assert secret not in (await org.admin.get(path)).text


async def test_a_key_is_found_by_its_bare_and_its_prefixed_id(org: Installation) -> None:
    for text in (org.owner.admin_key_id, f"ns_key_{org.owner.admin_key_id}", org.owner.admin_key_id.upper()):
        reply = await org.admin.get(f"/api/keys/{text}")
        assert reply.status_code == 200, text
        assert reply.json()["data"]["id"] == f"ns_key_{org.owner.admin_key_id}"


async def test_a_change_keeps_what_is_left_out_and_null_clears(org: Installation) -> None:
    key = (
        await org.admin.post("/api/keys", json={"name": "a", "allowedModels": ["x"], "defaultTags": {"t": "1"}})
    ).json()
    path, secret = f"/api/keys/{key['data']['id']}", key["data"]["rawKey"]
    changed = (await org.admin.patch(path, json={"name": "b"})).json()["data"]
    assert (changed["name"], changed["allowedModels"], changed["defaultTags"]) == ("b", ["x"], {"t": "1"})
    assert changed["version"] == 2
    await org.admin.patch(path, json={"allowedModels": None, "defaultTags": None, "allowedProviders": []})
    grant = await grant_of(org, secret)
    assert (grant.allowed_models, grant.default_tags, grant.allowed_providers) == (None, {}, ())
    assert grant.version == 3


async def test_a_revoked_key_is_a_tombstone_and_refused_at_once(org: Installation) -> None:
    key = (await org.admin.post("/api/keys", json={"name": "a", "scopes": ["read"]})).json()["data"]
    client = org.client(key["rawKey"])
    assert (await client.get("/api/keys")).status_code == 200
    before = await org.policy_version()
    reply = await org.admin.delete(f"/api/keys/{key['id']}")
    assert reply.json() == {"data": {"id": key["id"], "deleted": True}, "deleted": True, "success": True}
    assert (await client.get("/api/keys")).status_code == 401
    assert (await grant_of(org, key["rawKey"])).revoked
    assert await org.policy_version() == before + 1
    assert (await org.admin.get(f"/api/keys/{key['id']}")).json()["data"]["revokedAt"] is not None
    listed = (await org.admin.get("/api/keys")).json()["data"]
    assert key["id"] not in [row["id"] for row in listed]
    assert (await org.admin.delete(f"/api/keys/{key['id']}")).status_code == 404
    assert (await org.admin.patch(f"/api/keys/{key['id']}", json={"name": "x"})).status_code == 404


async def test_keys_come_in_pages_without_loss_or_repetition(org: Installation) -> None:
    for number in range(5):
        await org.admin.post("/api/keys", json={"name": f"key {number}"})
    seen: list[str] = []
    params: dict[str, str] = {"limit": "2"}
    while True:
        page = (await org.admin.get("/api/keys", params=params)).json()
        seen += [row["name"] for row in page["data"]]
        if not page["hasMore"]:
            assert page["cursor"] is None
            break
        params["cursor"] = _json(page["cursor"])
    assert seen[:5] == [f"key {number}" for number in (4, 3, 2, 1, 0)]
    assert len(seen) == len(set(seen)) == 7


def _json(cursor: dict[str, str]) -> str:
    return f'{{"createdAt":"{cursor["createdAt"]}","id":"{cursor["id"]}"}}'


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 51}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes"),
        ({"name": "a", "defaultTags": {"_ns_x": "1"}}, "defaultTags"),
        ({"name": "a", "defaultTags": {"bad key": "1"}}, "defaultTags"),
        ({"name": "a", "defaultTags": {f"k{n}": "1" for n in range(11)}}, "defaultTags"),
        ({"name": "a", "defaultTags": {"k": 1}}, "defaultTags"),
        ({"name": "a", "allowedModels": ["x"] * 51}, "allowedModels"),
        ({"name": "a", "allowedModels": ["x" * 101]}, "allowedModels"),
        ({"name": "a", "customerId": "*"}, "customerId"),
        ({"name": "a", "expiresAt": "2020-01-01T00:00:00Z"}, "expiresAt"),
        ({"name": "a", "expiresAt": "2090-01-01"}, "expiresAt"),
        ({"name": "a", "ipAllowlist": []}, "ipAllowlist"),
        ({"name": "a", "rawKey": "ns_live_sk_" + "0" * 32}, "rawKey"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_and_the_field_named(
    org: Installation, body: dict[str, object], field: str
) -> None:
    reply = await org.admin.post("/api/keys", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == "validation_error"
    assert error["details"]["issues"][0]["path"][0] == field
    assert error["request_id"] == reply.headers["X-Request-Id"]


async def test_a_name_cannot_be_cleared(org: Installation) -> None:
    reply = await org.admin.patch(f"/api/keys/{org.owner.service_key_id}", json={"name": None})
    assert reply.status_code == 400


async def test_a_name_with_a_nul_is_a_validation_error(org: Installation) -> None:
    reply = await org.admin.post("/api/keys", json={"name": "a\0b"})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "validation_error"


async def test_another_organisations_key_does_not_exist(org: Installation) -> None:
    other = await install(org.context)
    for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
        reply = await org.admin.request(method, f"/api/keys/{other.owner.service_key_id}", json=body)
        assert reply.status_code == 404, method
        unknown = await org.admin.request(method, f"/api/keys/{uuid7()}", json=body)
        assert reply.json()["error"]["message"] == unknown.json()["error"]["message"]
    assert (await org.admin.get("/api/keys/nonsense")).status_code == 404


async def test_a_key_cannot_make_a_wider_one_but_the_owners_admin_key_can_make_all(org: Installation) -> None:
    everything = ["proxy", "ingest", "read", "admin"]
    wide = await org.admin.post("/api/keys", json={"name": "wide", "scopes": everything})
    assert wide.status_code == 201
    assert wide.json()["data"]["scopes"] == everything
    narrow = org.client(org.owner.service_key)
    refused = await narrow.post("/api/keys", json={"name": "x"})
    assert refused.status_code == 403
    assert refused.json()["error"]["details"] == {"required_scope": "admin"}


async def test_last_use_is_that_of_the_newest_recorded_call(ready: Installation) -> None:
    await ready.record(5, requested_at_ms=1_790_000_000_123)
    await ready.record(5, requested_at_ms=1_780_000_000_000)
    await ready.ingest.drain()
    key = (await ready.admin.get(f"/api/keys/{ready.owner.service_key_id}")).json()["data"]
    assert key["lastUsedAt"] == "2026-09-21T14:13:20.123Z"
    admin = (await ready.admin.get(f"/api/keys/{ready.owner.admin_key_id}")).json()["data"]
    assert admin["lastUsedAt"] is None
