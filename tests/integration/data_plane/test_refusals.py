"""What is wrong with a request is said in the caller's dialect, and not a byte of it reaches the provider."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from shared import ids
from tests.integration.data_plane import caller
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.expected import assert_nothing_left, assert_refused
from tests.integration.data_plane.harness import Plane
from tests.integration.data_plane.surfaces import SURFACES, Surface

Build = Callable[[Plane, Surface], Awaitable[bytes]]


class Case(NamedTuple):
    status: int
    code: str
    build: Build
    details: Any = None
    """What `details` must be; a dictionary may leave members out."""


def sent(**options: Any) -> Build:
    """The usual call with something wrong about it. What depends on the surface is a function of it."""

    async def build(plane: Plane, surface: Surface) -> bytes:
        found = {name: value(surface) if callable(value) else value for name, value in options.items()}
        return plane.request(surface, **found)

    return build


def keyed(**grant: Any) -> Build:
    async def build(plane: Plane, surface: Surface) -> bytes:
        return plane.request(surface, key=await plane.tenant.key(**grant))

    return build


def with_secret(secret: str | None) -> Build:
    async def build(plane: Plane, surface: Surface) -> bytes:
        headers = [surface.credential] if secret is None else [surface.credential, ("X-NullSpend-Key", secret)]
        return caller.request(surface.path, surface.body(), headers)

    return build


def leaked(header: str, form: str = "{}") -> Build:
    """Our key where the provider's belongs."""

    async def build(plane: Plane, surface: Surface) -> bytes:
        secret = plane.key.secret
        headers = [(header, form.format(secret)), ("X-NullSpend-Key", secret)]
        return caller.request(surface.path, surface.body(), headers)

    return build


def leaked_twice(plane: Plane, surface: Surface) -> bytes:
    headers = [(surface.credential[0], f"Bearer {plane.key.secret}")]
    return plane.request(surface, headers=headers)


async def build_leaked_second(plane: Plane, surface: Surface) -> bytes:
    return leaked_twice(plane, surface)


async def build_leaked_query(plane: Plane, surface: Surface) -> bytes:
    return plane.request(surface, target=f"{surface.path}?key={plane.key.secret}")


async def build_leaked_escaped(plane: Plane, surface: Surface) -> bytes:
    return plane.request(surface, target=f"{surface.path}?key={plane.key.secret.replace('_', '%5f')}")


def capped(spelling: str) -> Case:
    """An output limit that is no whole number in range."""
    build = sent(body=lambda surface: surface.capped(spelling.encode()))
    return Case(400, "invalid_parameter", build, {"reason"})


def chunked(*pieces: bytes) -> Build:
    async def build(plane: Plane, surface: Surface) -> bytes:
        return caller.request(surface.path, headers=[("X-NullSpend-Key", plane.key.secret)], chunked=pieces)

    return build


def twice(surface: Surface) -> bytes:
    field = f'"{surface.cap_field}":'
    return surface.capped(b"1").replace(f"{field}1".encode(), f"{field}1,{field}2".encode())


def twice_escaped(surface: Surface) -> bytes:
    """One of the two spells a letter as an escape."""
    field = f'"{surface.cap_field}":'
    hidden = field.replace("a", "\\u0061", 1)
    return surface.capped(b"1").replace(f"{field}1".encode(), f"{field}1,{hidden}2".encode())


UNAUTHORIZED = 401, "unauthorized"
BAD = 400, "bad_request"
MODELS = {"mandate": "allowed_models", "allowed": ["o3", "claude-3-*"]}
PROVIDERS = {"mandate": "allowed_providers", "allowed": []}

CASES = {
    "no key": Case(*UNAUTHORIZED, with_secret(None)),
    "an empty key": Case(*UNAUTHORIZED, with_secret("")),
    "a malformed key": Case(*UNAUTHORIZED, with_secret("ns_live_sk_xyz")),
    "a key in capitals": Case(*UNAUTHORIZED, with_secret("NS_LIVE_SK_" + "0" * 32)),
    "an unknown key": Case(*UNAUTHORIZED, with_secret(ids.new_api_key())),
    "a revoked key": Case(*UNAUTHORIZED, keyed(revoked=True)),
    "an expired key": Case(*UNAUTHORIZED, keyed(expires_at_ms=1)),
    "our key as bearer": Case(*UNAUTHORIZED, leaked("Authorization", "Bearer {}")),
    "our key as x-api-key": Case(*UNAUTHORIZED, leaked("x-api-key")),
    "our key as api-key": Case(*UNAUTHORIZED, leaked("api-key")),
    "our key as x-goog-api-key": Case(*UNAUTHORIZED, leaked("X-Goog-Api-Key")),
    "our key as a second credential": Case(*UNAUTHORIZED, build_leaked_second),
    "our key in the query": Case(*UNAUTHORIZED, build_leaked_query),
    "our key in the query with escapes": Case(*UNAUTHORIZED, build_leaked_escaped),
    "a key without the scope": Case(403, "forbidden", keyed(scopes=("read", "admin")), {"required_scope": "proxy"}),
    "a repeated header of ours": Case(*BAD, sent(headers=[("X-NullSpend-Tags", "{}"), ("x-nullspend-tags", "{}")])),
    "a repeated key": Case(*BAD, sent(headers=[("X-NULLSPEND-KEY", ids.new_api_key())])),
    "a session that is too long": Case(*BAD, sent(headers=[("X-NullSpend-Session", "s" * 257)])),
    "a session outside ASCII": Case(*BAD, sent(headers=[("X-NullSpend-Session", "s\xe9")])),
    "a session with a tab": Case(*BAD, sent(headers=[("X-NullSpend-Session", "a\tb")])),
    "an idempotency key outside ASCII": Case(*BAD, sent(headers=[("Idempotency-Key", "\xff")])),
    "another upstream": Case(
        400, "invalid_upstream", sent(headers=[("X-NullSpend-Upstream", "https://evil.example")])
    ),
    "no body": Case(*BAD, sent(body=b"")),
    "no JSON": Case(*BAD, sent(body=b"hello")),
    "half a JSON": Case(*BAD, sent(body=b'{"model":"gpt-4o"')),
    "a list": Case(*BAD, sent(body=b"[]")),
    "a string": Case(*BAD, sent(body=b'"gpt-4o"')),
    "not UTF-8": Case(*BAD, sent(body=b'{"model":"\xff"}')),
    "UTF-16": Case(*BAD, sent(body='{"model":"gpt-4o"}'.encode("utf-16"))),
    "too deep a JSON": Case(*BAD, sent(body=b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}")),
    "a compressed body": Case(
        415, "unsupported_encoding", sent(headers=[("Content-Encoding", "gzip")]), {"encoding": "gzip"}
    ),
    "a twice encoded body": Case(
        415, "unsupported_encoding", sent(headers=[("Content-Encoding", "identity"), ("content-encoding", "br")])
    ),
    "the output limit twice": Case(400, "ambiguous_json", sent(body=twice), {"field", "reason"}),
    "the output limit twice, hidden": Case(400, "ambiguous_json", sent(body=twice_escaped), {"field", "reason"}),
    "limit 0": capped("0"),
    "limit -1": capped("-1"),
    "limit 1.5": capped("1.5"),
    "limit 1e2": capped("1e2"),
    "limit 1e999": capped("1e999"),
    "limit NaN": capped("NaN"),
    "limit Infinity": capped("-Infinity"),
    "limit true": capped("true"),
    "limit as text": capped('"100"'),
    "limit in a list": capped("[100]"),
    "limit 10000001": capped("10000001"),
    "limit beyond 64 bits": capped("184467440737095516160"),
}  # fmt: skip


DENIALS = {
    "models outside the mandate": Case(
        403, "mandate_violation", keyed(allowed_models=("o3", "claude-3-*")), MODELS
    ),
    "no provider in the mandate": Case(403, "mandate_violation", keyed(allowed_providers=()), PROVIDERS),
}  # fmt: skip


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("name", CASES)
async def test_a_request_that_is_wrong_is_refused_before_anything_leaves(
    plane: Plane, surface: Surface, name: str
) -> None:
    case = CASES[name]
    reply = await plane.send(await case.build(plane, surface))
    error = assert_refused(reply, case.status, case.code, surface=surface)
    assert_details(error["details"], case.details)
    assert "resets_at" not in error
    await assert_nothing_left(plane)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("name", DENIALS)
async def test_a_mandate_refuses_before_anything_leaves(plane: Plane, surface: Surface, name: str) -> None:
    case = DENIALS[name]
    reply = await plane.send(await case.build(plane, surface))
    error = assert_refused(reply, case.status, case.code, surface=surface, denied=True)
    assert_details(error["details"], case.details)
    assert error["details"]["requested"] == (surface.model if case.details is MODELS else surface.provider)
    assert error["recovery"] == {"retryable": False, "owner_action_required": True, "retry_after_seconds": None}
    await assert_nothing_left(plane)


def assert_details(details: Any, wanted: Any) -> None:
    if isinstance(wanted, set):
        assert wanted <= details.keys()
    elif isinstance(wanted, dict):
        assert details.items() >= wanted.items() if not any(isinstance(v, list) for v in wanted.values()) else True
        assert {name: details[name] for name in wanted} == wanted
    elif wanted is not None:
        assert details == wanted


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
async def test_a_model_without_a_price_is_refused_with_the_nearest_that_have_one(
    plane: Plane, surface: Surface
) -> None:
    name = "ultra-" + surface.model
    reply = await plane.call(surface, target=surface.target(model=name), model=name)
    error = assert_refused(reply, 400, "unpriced_model", surface=surface, denied=True)
    details = error["details"]
    assert (details["provider"], details["model"]) == (surface.provider, name)
    assert surface.model in details["nearest"]
    await assert_nothing_left(plane)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("way", ["declared", "chunked", "chunked at once"])
async def test_a_body_that_is_too_large_is_refused_however_it_is_framed(
    new_plane: NewPlane, surface: Surface, way: str
) -> None:
    plane = await new_plane(body_bytes_max=1024)
    body = surface.body(padding="x" * 2000)
    if way == "declared":
        raw = plane.request(surface, body=body)
    else:
        pieces = [body] if way == "chunked at once" else [body[n : n + 100] for n in range(0, len(body), 100)]
        raw = await chunked(*pieces)(plane, surface)
    reply = await plane.send(raw)
    error = assert_refused(reply, 413, "payload_too_large", surface=surface)
    assert error["details"] == {"limit_bytes": 1024}
    assert reply.header("Connection") == "close"
    await assert_nothing_left(plane)


async def test_a_body_at_the_limit_passes_in_either_framing(new_plane: NewPlane) -> None:
    surface = SURFACES[0]
    body = surface.body(padding="")
    body = surface.body(padding="x" * (1024 - len(body)))
    plane = await new_plane(body_bytes_max=1024)
    assert (await plane.call(surface, body=body)).status == 200
    assert (await plane.send(await chunked(body[:1000], body[1000:])(plane, surface))).status == 200
    assert [received.body for received in plane.upstream.requests] == [body, body]


UNROUTED = {
    ("GET", "/v1/chat/completions"): (404, "not_found"),
    ("POST", "/v1/chat/completions/"): (404, "not_found"),
    ("POST", "/V1/chat/completions"): (404, "not_found"),
    ("POST", "/chat/completions"): (404, "not_found"),
    ("POST", "/v1/completions"): (404, "not_found"),
    ("POST", "/v1/messages/count_tokens"): (404, "not_found"),
    ("POST", "/v1beta/models/gemini-2.5-flash:countTokens"): (404, "not_found"),
    ("POST", "/internal/flush"): (404, "not_found"),
    ("POST", "/v1/chat%2Fcompletions"): (400, "bad_request"),
    ("POST", "/v1beta/models/a%2fb:generateContent"): (400, "bad_request"),
    ("POST", "/v1/../v1/chat/completions"): (400, "bad_request"),
    ("POST", "/v1/%2e%2e/v1/chat/completions"): (400, "bad_request"),
    ("POST", "//v1/chat/completions"): (400, "bad_request"),
    ("POST", "/v1/messages%00"): (400, "bad_request"),
    ("POST", "/v1/%ff"): (400, "bad_request"),
}


@pytest.mark.parametrize(("method", "path"), UNROUTED, ids=lambda part: part)
async def test_what_is_not_routed_does_not_exist(plane: Plane, method: str, path: str) -> None:
    status, code = UNROUTED[method, path]
    headers = [("X-NullSpend-Key", plane.key.secret)]
    reply = await plane.send(caller.request(path, b"{}" if method == "POST" else b"", headers, method=method))
    error = assert_refused(reply, status, code)
    assert error["details"] is None
    await assert_nothing_left(plane)


async def test_all_keys_that_do_not_work_are_told_apart_by_nobody(plane: Plane) -> None:
    names = ("no key", "a malformed key", "an unknown key", "a revoked key", "an expired key")
    replies = [await plane.send(await CASES[name].build(plane, SURFACES[0])) for name in names]
    bodies = {reply.body.replace(reply.error["request_id"].encode(), b"ID") for reply in replies}
    assert len(bodies) == 1


async def test_a_call_that_could_cost_more_than_a_million_dollars_is_refused(plane: Plane) -> None:
    advisor = {"type": "advisor", "parameters": {"model": "o1-pro"}}
    reply = await plane.call(cap=10_000_000, n=128, model="o1-pro", tools=[advisor])
    error = assert_refused(reply, 400, "invalid_parameter", surface=SURFACES[0])
    assert error["details"].keys() == {"field", "reason"}
    await assert_nothing_left(plane)
