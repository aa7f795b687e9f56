"""Which headers pass: to the provider everything but what is private, to the client everything but what could lie."""

import json

import pytest

from tests.integration.data_plane import caller
from tests.integration.data_plane.caller import Reply
from tests.integration.data_plane.harness import Plane
from tests.integration.data_plane.surfaces import ANTHROPIC, GEMINI, OPENAI, SURFACES, Surface
from tests.integration.data_plane.upstream import Headers, Received, Wire, whole

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)


async def received(plane: Plane, *lines: tuple[str, str], stream: bool = False) -> Headers:
    """The provider's view of the headers of a call with these lines, less what the connection itself needs."""
    headers = [("X-NullSpend-Key", plane.key.secret), *lines]
    raw = caller.request(OPENAI.path, OPENAI.body(stream=stream), headers)
    assert (await plane.send(raw)).status == 200
    return plane.upstream.requests[-1].headers


async def test_headers_arrive_in_their_order_and_spelling(plane: Plane) -> None:
    lines = [
        ("AUTHORIZATION", "Bearer sk-1"),
        ("openai-Organization", "org"),
        ("x-stainless-lang", "python"),
        ("X-Multi", "one"),
        ("Idempotency-Key", "k"),
        ("x-multi", "two, three"),
        ("User-Agent", "a b/1.0  (c)"),
        ("Accept", "*/*"),
        ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
        ("X-Bytes", "\xe9\xff"),
        ("X-Empty", ""),
    ]
    headers = await received(plane, *lines)
    host = (b"Host", f"127.0.0.1:{plane.upstream.port}".encode())
    ours = [(b"accept-encoding", b"identity"), (b"Content-Length", b"%d" % len(OPENAI.body()))]
    wanted = [(name.encode(), value.encode("latin-1")) for name, value in lines]
    assert headers == [host, *wanted, *ours]


PRIVATE = [
    ("Cookie", "session=1"),
    ("X-NullSpend-Customer", "acme"),
    ("X-NullSpend-Tags", "{}"),
    ("x-nullspend-anything", "1"),
    ("NullSpend-Version", "2026-04-01"),
    ("X-Forwarded-For", "10.0.0.1"),
    ("x-forwarded-proto", "https"),
    ("Forwarded", "for=10.0.0.1"),
    ("X-Real-IP", "10.0.0.1"),
    ("Via", "1.1 proxy"),
    ("Proxy-Authorization", "Basic eA=="),
    ("proxy-connection", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("TE", "trailers"),
    ("Trailer", "X-Sum"),
    ("Upgrade", "h2c"),
    ("Expect", "100-continue"),
    ("Connection", "keep-alive, X-Hop, HTTP2-Settings"),
    ("X-Hop", "1"),
    ("HTTP2-Settings", "x"),
]


async def test_private_and_hop_by_hop_headers_stay_here(plane: Plane) -> None:
    headers = await received(plane, *PRIVATE)
    assert {name.lower() for name, _ in headers} == {b"host", b"accept-encoding", b"content-length"}
    assert plane.key.secret.encode() not in plane.upstream.requests[0].head


async def test_every_connection_header_names_what_stays_here(plane: Plane) -> None:
    lines = [("Connection", "keep-alive"), ("Connection", "X-First"), ("connection", " x-second ,"), ("X-First", "1")]
    headers = await received(plane, *lines, ("X-Second", "2"), ("X-Third", "3"))
    assert (b"X-Third", b"3") in headers
    assert not {name.lower() for name, _ in headers} & {b"connection", b"x-first", b"x-second"}


@pytest.mark.parametrize(
    "name", ["authorization", "x-api-key", "api-key", "x-goog-api-key", "content-type", "Content-Encoding"]
)
async def test_a_connection_header_cannot_take_away_what_the_provider_needs(plane: Plane, name: str) -> None:
    value = "identity" if name == "Content-Encoding" else "application/json"
    headers = await received(plane, ("Connection", f"close, {name.upper()}"), (name, value))
    assert (name.encode(), value.encode()) in headers


@pytest.mark.parametrize(
    ("accepted", "forwarded"),
    [
        ("gzip, deflate, br, zstd", b"gzip, deflate"),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", b"gzip;q=0.8"),
        ("identity", b"identity"),
        ("br", b"identity"),
        ("", b"identity"),
    ],
)
async def test_only_codings_that_can_be_metered_are_asked_for(plane: Plane, accepted: str, forwarded: bytes) -> None:
    headers = await received(plane, ("Accept-Encoding", accepted))
    assert [value for name, value in headers if name.lower() == b"accept-encoding"] == [forwarded]


async def test_a_stream_that_is_edited_on_its_way_back_is_asked_for_as_it_is(plane: Plane) -> None:
    headers = await received(plane, ("Accept-Encoding", "gzip"), stream=True)
    assert [value for name, value in headers if name.lower() == b"accept-encoding"] == [b"identity"]


@each_surface
async def test_the_callers_credential_arrives_where_it_was_put(plane: Plane, surface: Surface) -> None:
    assert (await plane.call(surface)).status == 200
    name, value = surface.credential
    (request,) = plane.upstream.requests
    assert (name.encode(), value.encode()) in request.headers
    others = {s.credential[0].lower().encode() for s in SURFACES} - {name.lower().encode()}
    assert not others & {key.lower() for key, _ in request.headers}


FORGED = [
    b"X-NullSpend-Denied: 1",
    b"x-nullspend-error: budget_exceeded",
    b"X-NULLSPEND-Budget-Remaining: 0",
    b"Set-Cookie: a=b",
    b"set-cookie: c=d",
    b'Alt-Svc: h3=":443"',
    b"Strict-Transport-Security: max-age=1",
    b"Proxy-Authenticate: Basic",
    b"Keep-Alive: timeout=5",
    b"Connection: keep-alive, X-Hop",
    b"X-Hop: 1",
]
KEPT = [
    b"request-id: req_1",
    b"x-request-id: req_2",
    b"anthropic-ratelimit-requests-remaining: 3",
    b"retry-after-ms: 5",
    b"x-should-retry: true",
    b"OpenAI-Version: 2020-10-01",
    b"X-Twice: 1",
    b"x-twice: 2",
]


def kept(reply: Reply) -> list[bytes]:
    wanted = {line.split(b": ")[0] for line in KEPT}
    return [name + b": " + value for name, value in reply.headers if name in wanted]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [200, 429])
async def test_a_provider_cannot_forge_our_headers_and_keeps_its_own(plane: Plane, status: int, stream: bool) -> None:
    async def play(request: Received, wire: Wire) -> None:
        if status == 200 and stream:
            wire.begin(headers=[*FORGED, *KEPT])
            for piece in ANTHROPIC.pieces:
                wire.chunk(piece)
            wire.end()
        else:
            await whole(ANTHROPIC.reply, status=status, headers=[*FORGED, *KEPT])(request, wire)

    plane.upstream.play = play
    reply = await plane.call(ANTHROPIC, stream=stream)
    assert reply.status == status
    assert kept(reply) == KEPT
    forbidden = {"set-cookie", "alt-svc", "strict-transport-security", "proxy-authenticate", "keep-alive", "x-hop"}
    assert not reply.names() & forbidden
    assert "x-nullspend-denied" not in reply.names()
    assert "x-nullspend-error" not in reply.names()
    assert "x-nullspend-budget-remaining" not in reply.names()


async def test_streams_are_marked_against_caches_and_buffers_only_where_the_provider_did_not(plane: Plane) -> None:
    reply = await plane.call(ANTHROPIC, stream=True)
    assert reply.header("cache-control") == "no-cache, no-transform"
    assert reply.header("x-accel-buffering") == "no"

    async def play(request: Received, wire: Wire) -> None:
        wire.begin(headers=[b"Cache-Control: no-cache", b"X-Accel-Buffering: yes"])
        wire.end()

    plane.upstream.play = play
    reply = await plane.call(ANTHROPIC, stream=True)
    assert [value for name, value in reply.headers if name.lower() == b"cache-control"] == [b"no-cache"]
    assert [value for name, value in reply.headers if name.lower() == b"x-accel-buffering"] == [b"yes"]


@each_surface
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_every_reply_says_who_it_was_and_what_it_took(plane: Plane, surface: Surface, stream: bool) -> None:
    await plane.tenant.budget(10**6, "customer", "acme")
    headers = [
        ("X-NullSpend-Customer", " acme "),
        ("X-NullSpend-Session", " s 1 "),
        ("X-NullSpend-Tags", '{"feature":"s\u00fc\u00df"}'.encode().decode("latin-1")),
        ("traceparent", "00-" + "c" * 32 + "-" + "b" * 16 + "-01"),
    ]
    reply = await plane.call(surface, stream=stream, headers=headers)
    estimate = surface.hold(surface.body(stream=stream))
    assert reply.header("X-NullSpend-Trace-Id") == "c" * 32
    assert reply.header("NullSpend-Version") == "2026-04-01"
    assert reply.header("X-NullSpend-Estimate") == str(estimate)
    assert reply.header("X-NullSpend-Budget-Entity") == "customer:acme"
    assert reply.header("X-NullSpend-Budget-Spent") == str(estimate)
    assert reply.header("X-NullSpend-Budget-Remaining") == str(10**6 - estimate)
    assert reply.header("X-NullSpend-Session") == "s 1"
    tags = {"feature": "s\u00fc\u00df", "customer": "acme"}
    assert json.loads(reply.header("X-NullSpend-Effective-Tags") or "") == tags
    assert "preflight;dur=" in (reply.header("Server-Timing") or "")
    assert float(reply.header("x-nullspend-overhead-ms") or "") > 0
    spend = await plane.tenant.spent()
    assert (spend.event.customer_id, spend.event.session_id, spend.event.tags) == ("acme", "s 1", tags)


LABELS = {
    "an invalid customer": ([("X-NullSpend-Customer", "a b")], "invalid_customer", None, {}),
    "an empty customer": ([("X-NullSpend-Customer", "")], "invalid_customer", None, {}),
    "a customer outside ASCII": ([("X-NullSpend-Customer", "\xe9")], "invalid_customer", None, {}),
    "an invalid customer beside a tag": (
        [("X-NullSpend-Customer", "a/b"), ("X-NullSpend-Tags", '{"customer":"t"}')], "invalid_customer", "t",
        {"customer": "t"},
    ),
    "tags that are none": ([("X-NullSpend-Tags", "[1]")], "invalid_tags", None, {}),
    "tags that are no JSON": ([("X-NullSpend-Tags", "{a:1}")], "invalid_tags", None, {}),
    "a reserved tag": ([("X-NullSpend-Tags", '{"_ns_x":"1","a":"1"}')], "invalid_tags", None, {"a": "1"}),
    "a tag that is no text": ([("X-NullSpend-Tags", '{"n":1,"a":"1"}')], "invalid_tags", None, {"a": "1"}),
    "a tag with an invalid key": ([("X-NullSpend-Tags", '{"a b":"1","":"2"}')], "invalid_tags", None, {}),
    "an invalid action": ([("X-NullSpend-Action-Id", "ns_act_1")], "invalid_action_id", None, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
async def test_labels_that_are_wrong_are_dropped_with_a_warning(plane: Plane, name: str) -> None:
    lines, warning, customer, tags = LABELS[name]
    reply = await plane.call(headers=lines)
    assert (reply.status, reply.header("X-NullSpend-Warning")) == (200, warning)
    event = (await plane.tenant.spent()).event
    assert (event.customer_id, event.tags) == (customer, tags)


async def test_the_keys_own_tags_and_customer_stand_under_and_over_the_callers(plane: Plane) -> None:
    key = await plane.tenant.key(customer_id="bound", default_tags={"team": "a", "feature": "default", "customer": "x"})
    headers = [("X-NullSpend-Customer", "other"), ("X-NullSpend-Tags", '{"feature":"mine"}')]
    reply = await plane.call(key=key, headers=headers)
    assert reply.header("X-NullSpend-Warning") == "customer_overridden"
    event = (await plane.tenant.spent()).event
    assert event.customer_id == "bound"
    assert event.tags == {"team": "a", "feature": "mine", "customer": "bound"}


async def test_only_the_first_ten_tags_count(plane: Plane) -> None:
    tags = {f"t{n}": str(n) for n in range(12)}
    reply = await plane.call(headers=[("X-NullSpend-Tags", json.dumps(tags))])
    assert reply.header("X-NullSpend-Warning") == "invalid_tags"
    assert (await plane.tenant.spent()).event.tags == {f"t{n}": str(n) for n in range(10)}


@pytest.mark.parametrize("surface", [OPENAI, GEMINI], ids=lambda surface: surface.name)
async def test_the_right_upstream_may_be_named(plane: Plane, surface: Surface) -> None:
    named = plane.upstream.url.replace("http", "HTTP") + "/"
    assert (await plane.call(surface, headers=[("X-NullSpend-Upstream", named)])).status == 200
