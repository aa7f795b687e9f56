"""Callers that try: to break out of a header, to hide a number, to be somebody else, to be slow or half gone."""

import asyncio
import json
import re
import socket

import pytest

from tests.integration.data_plane import caller
from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.expected import assert_nothing_left, assert_refused
from tests.integration.data_plane.harness import Plane, until
from tests.integration.data_plane.surfaces import ANTHROPIC, GEMINI, OPENAI, SURFACES, Surface
from tests.integration.data_plane.tenant import Tenant
from tests.integration.data_plane.upstream import Received, Wire, whole

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
EVIL = "x\r\nX-Evil: 1\r\n\r\n<html>"


def utf8(text: str) -> str:
    """As `request` sends it byte for byte."""
    return text.encode().decode("latin-1")


# --- breaking out


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_line_breaks_in_tags_stay_in_their_header(plane: Plane, stream: bool) -> None:
    tags = json.dumps({"a": EVIL, "b": "\x7f\x1b[31m", "c": "\u2028\u00e9\U0001f600"}, ensure_ascii=True)
    reply = await plane.call(stream=stream, headers=[("X-NullSpend-Tags", tags)])
    assert (reply.status, reply.complete) == (200, True)
    assert "x-evil" not in reply.names()
    echo = reply.header("X-NullSpend-Effective-Tags") or ""
    assert json.loads(echo) == json.loads(tags)
    assert re.fullmatch("[ -~]+", echo)
    assert (await plane.tenant.spent()).event.tags == json.loads(tags)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_line_breaks_in_a_budgets_name_stay_in_their_header(plane: Plane, stream: bool) -> None:
    budget = await plane.tenant.budget(WIDE, "tag", f"feature={EVIL}\u00e9")
    headers = [("X-NullSpend-Tags", json.dumps({"feature": EVIL + "\u00e9"}))]
    reply = await plane.call(stream=stream, headers=headers)
    assert (reply.status, reply.complete) == (200, True)
    assert reply.header("X-NullSpend-Budget-Entity") == "tag:feature=x??X-Evil: 1????<html>?"
    await assert_booked(plane, budget, OPENAI.cost, "completed exact")
    await plane.tenant.set_limit(budget, 0)
    refused = await plane.call(stream=stream, headers=headers)
    assert_refused(refused, 429, "tag_budget_exceeded", surface=OPENAI, denied=True)
    assert refused.error["details"]["tag_value"] == EVIL + "\u00e9"


async def test_a_keys_own_tags_may_hold_anything(plane: Plane) -> None:
    key = await plane.tenant.key(default_tags={"a": EVIL, "b\r\n": "\u00e9"})
    reply = await plane.call(key=key)
    assert reply.status == 200
    assert json.loads(reply.header("X-NullSpend-Effective-Tags") or "") == {"a": EVIL, "b\r\n": "\u00e9"}


@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\0", b"\r\n "])
async def test_a_header_that_holds_a_line_break_is_no_request(plane: Plane, byte: bytes) -> None:
    raw = plane.request(headers=[("X-NullSpend-Session", "aXb")]).replace(b"aXb", b"a" + byte + b"Evil: 1")
    reply = await plane.send(raw)
    assert reply.status == 400
    await assert_nothing_left(plane)


@pytest.mark.parametrize(
    "name", ["gpt-4o%0d%0aX-Evil:%201", "%00", "gpt%0A4o", "..%2f..", "a%3Fb", "a%23b", "%f0%9f%98%80"]
)
async def test_a_model_in_the_path_cannot_break_out(plane: Plane, name: str) -> None:
    reply = await plane.call(GEMINI, target=f"/v1beta/models/{name}:generateContent")
    assert reply.status in {400, 404}
    assert reply.json()["error"]["type"] in {"bad_request", "not_found", "invalid_parameter", "unpriced_model"}
    assert "x-evil" not in reply.names()
    await assert_nothing_left(plane)


# --- hiding


SURROGATES = ["\\ud800", "gpt-4o\\udfff", "\\ud83d\\ud83d"]


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("surface", [OPENAI, ANTHROPIC], ids=lambda surface: surface.name)
@pytest.mark.parametrize("mandate", [None, ("o3",)], ids=["", "mandate"])
async def test_half_a_character_in_a_models_name_is_refused(
    plane: Plane, surface: Surface, name: str, mandate: tuple[str, ...] | None
) -> None:
    key = await plane.tenant.key(allowed_models=mandate)
    body = surface.body().replace(surface.model.encode(), name.encode())
    error = assert_refused(await plane.call(surface, key=key, body=body), 400, "invalid_parameter", surface=surface)
    assert error["details"]["field"] == "model"
    await assert_nothing_left(plane)


@each_surface
async def test_half_a_character_in_a_tier_is_refused(plane: Plane, surface: Surface) -> None:
    field = b',"serviceTier":"' if surface is GEMINI else b',"service_tier":"'
    body = surface.body()[:-1] + field + b'\\udc00x"}'
    assert_refused(await plane.call(surface, body=body), 400, "invalid_parameter", surface=surface)
    await assert_nothing_left(plane)


@each_surface
async def test_half_a_character_in_a_text_passes_byte_for_byte(plane: Plane, surface: Surface) -> None:
    body = surface.body().replace(b"hello", b"he\\ud83dllo")
    assert (await plane.call(surface, body=body)).status == 200
    assert plane.upstream.requests[0].body == body


@pytest.mark.parametrize("number", ["-0", "1E+2", "0.1e-5", "184467440737095516160", "-9223372036854775809"])
async def test_numbers_we_do_not_look_at_pass_byte_for_byte(plane: Plane, number: str) -> None:
    body = OPENAI.body()[:-1] + b',"seed" : ' + number.encode() + b"}"
    assert (await plane.call(body=body)).status == 200
    assert plane.upstream.requests[0].body == body


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "0x10", "1_0", "01", "+1", ".5", "1."])
async def test_numbers_that_are_none_are_refused_wherever_they_stand(plane: Plane, number: str) -> None:
    body = OPENAI.body()[:-1] + b',"seed":' + number.encode() + b"}"
    assert_refused(await plane.call(body=body), 400, "bad_request", surface=OPENAI)
    await assert_nothing_left(plane)


async def test_a_deep_conversation_passes_or_is_refused_but_breaks_nothing(plane: Plane) -> None:
    for depth in (50, 200, 480, 900, 5000):
        content: bytes = b'"x"'
        body = ANTHROPIC.body().replace(
            b'"hello"', b'[{"type":"tool_result","content":' * depth + content + b"}]" * depth
        )
        reply = await plane.call(ANTHROPIC, body=body)
        assert reply.status in {200, 400}, depth
        assert reply.status == 200 or reply.error["code"] == "bad_request"
    assert (await plane.call(ANTHROPIC)).status == 200


async def test_ten_thousand_tags_are_none(plane: Plane) -> None:
    tags = json.dumps({f"t{n}": "" for n in range(1500)})
    reply = await plane.call(headers=[("X-NullSpend-Tags", tags)])
    assert (reply.status, reply.header("X-NullSpend-Warning")) == (200, "invalid_tags")
    assert (await plane.tenant.spent()).event.tags == {}
    refused = await plane.call(headers=[("X-NullSpend-Tags", json.dumps({f"t{n}": "" for n in range(10_000)}))])
    assert (refused.status, refused.error["code"]) == (431, "headers_too_large")


async def test_the_largest_tags_there_can_be_come_back_whole(plane: Plane) -> None:
    tags = {f"{n:064d}": "\U0001f600" * 180 for n in range(10)}
    text = json.dumps(tags, ensure_ascii=False, separators=(",", ":"))
    reply = await plane.call(headers=[("X-NullSpend-Tags", utf8(text))])
    assert reply.status == 200
    assert json.loads(reply.header("X-NullSpend-Effective-Tags") or "") == tags


async def test_headers_up_to_the_limit_pass_and_beyond_it_are_refused(plane: Plane) -> None:
    assert (await plane.call(headers=[("X-Long", "v" * 31_000)])).status == 200
    assert plane.upstream.requests[0].header(b"X-Long") == b"v" * 31_000
    reply = await plane.call(headers=[("X-Long", "v" * 33_000)])
    assert (reply.status, reply.error["code"]) == (431, "headers_too_large")
    assert len(plane.upstream.requests) == 1


# --- being somebody else


async def test_a_customer_tag_is_the_customer_and_counts_once(plane: Plane) -> None:
    budget = await plane.tenant.budget(WIDE, "customer", "acme")
    as_tag = await plane.tenant.budget(0, "tag", "customer=acme")
    reply = await plane.call(headers=[("X-NullSpend-Tags", '{"customer":"acme"}')])
    assert reply.status == 200
    await assert_booked(plane, budget, OPENAI.cost, "completed exact")
    assert (await plane.tenant.state(as_tag)).settled == 0


@pytest.mark.parametrize("name", ["X-NullSpend-Org-Id", "X-NullSpend-Key-Id", "X-NullSpend-User-Id"])
async def test_identity_comes_from_the_key_alone(plane: Plane, name: str) -> None:
    assert (await plane.call(headers=[(name, "ns_org_00000000-0000-7000-8000-000000000000")])).status == 200
    event = (await plane.tenant.spent()).event
    assert (event.org_id, event.api_key_id) == (plane.tenant.id, plane.key.id)


async def test_pipelined_calls_of_different_keys_keep_their_labels_and_budgets_apart(plane: Plane) -> None:
    keys = [await plane.tenant.key(customer_id=f"customer-{n}", default_tags={"own": str(n)}) for n in range(4)]
    await plane.tenant.budget(0, "api_key", keys[3].id)
    order = [n % 4 for n in range(24)]
    surfaces = [SURFACES[n % 3] for n in range(24)]
    raws = [
        plane.request(surface, key=keys[who], headers=[("X-NullSpend-Session", f"{turn}-{who}")])
        for turn, (who, surface) in enumerate(zip(order, surfaces, strict=True))
    ]
    async with await plane.connect() as client:
        client.send(b"".join(raws))
        replies = [await client.reply() for _ in raws]
    for turn, (who, surface, reply) in enumerate(zip(order, surfaces, replies, strict=True)):
        if who == 3:
            assert_refused(reply, 429, "budget_exceeded", surface=surface, denied=True)
            continue
        assert (reply.status, reply.body) == (200, surface.reply)
        assert reply.header("X-NullSpend-Session") == f"{turn}-{who}"
        assert json.loads(reply.header("X-NullSpend-Effective-Tags") or "")["own"] == str(who)
    spends = await plane.tenant.ended(18)
    for spend in spends:
        turn, who = map(int, (spend.event.session_id or "").split("-"))
        assert (spend.event.api_key_id, spend.event.customer_id) == (keys[who].id, f"customer-{who}")
        assert (spend.event.model, spend.cost) == (surfaces[turn].model, surfaces[turn].cost)


async def test_a_key_counts_for_its_own_request_only(plane: Plane) -> None:
    with_key = plane.request()
    without = caller.request(OPENAI.path, OPENAI.body(), [OPENAI.credential])
    async with await plane.connect() as client:
        client.send(with_key + without + with_key)
        assert [(await client.reply()).status for _ in range(3)] == [200, 401, 200]
    assert len(plane.upstream.requests) == 2


async def test_two_organisations_do_not_share_a_window(plane: Plane) -> None:
    other = Tenant(plane.redis)
    await other.open()
    key = await other.key()
    await other.budget(0, "customer", "acme")
    mine = await plane.tenant.budget(WIDE, "customer", "acme")
    headers = [("X-NullSpend-Customer", "acme")]
    assert (await plane.call(headers=headers)).status == 200
    assert (await plane.call(key=key, headers=headers)).status == 429
    await assert_booked(plane, mine, OPENAI.cost, "completed exact")
    await other.quiet()


# --- being slow, or half gone


@pytest.mark.parametrize("sent", ["the whole request", "a part of the body", "nothing of the body"])
async def test_a_client_that_half_closes_is_gone(plane: Plane, sent: str) -> None:
    async def late(request: Received, wire: Wire) -> None:
        await wire.gone.wait()

    plane.upstream.play = late
    raw = plane.request(ANTHROPIC, stream=True)
    split = raw.index(b"\r\n\r\n") + 4
    upto = {"the whole request": len(raw), "a part of the body": split + 5, "nothing of the body": split}[sent]
    async with await plane.connect() as client:
        client.send(raw[:upto])
        if upto == len(raw):
            await until(lambda: plane.upstream.requests)
        client.writer.write_eof()
        await client.gone()
    if upto == len(raw):
        assert (await plane.tenant.spent()).event.flags == ["estimated", "cancelled"]
    else:
        await until(lambda: not plane.worker._server.in_flight)
        await assert_nothing_left(plane)


async def test_a_body_that_comes_byte_by_byte_is_held_and_sent_once(plane: Plane) -> None:
    budget = await plane.tenant.budget(WIDE)
    raw = plane.request()
    async with await plane.connect() as client:
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(raw)):
            client.send(raw[at : at + 1])
            await asyncio.sleep(0)
        assert plane.upstream.connections <= 1
        assert (await client.reply()).status == 200
    await assert_booked(plane, budget, OPENAI.cost, "completed exact")
    assert plane.upstream.requests[0].body == OPENAI.body()


async def test_nothing_is_held_for_a_body_that_is_not_there_yet(plane: Plane) -> None:
    await plane.tenant.budget(WIDE)
    async with await plane.connect() as client:
        client.send(plane.request()[:-1])
        await until(lambda: plane.worker._server.in_flight)
        await asyncio.sleep(0.03)
        assert await plane.tenant.holds() == []
    await until(lambda: not plane.worker._server.in_flight)
    await assert_nothing_left(plane)


async def test_an_old_client_gets_its_stream_to_the_end_of_the_connection(plane: Plane) -> None:
    raw = plane.request(ANTHROPIC, stream=True).replace(b"HTTP/1.1", b"HTTP/1.0")
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.send(raw)
    assert "transfer-encoding" not in reply.names()
    assert reply.body == b"".join(ANTHROPIC.pieces)
    await assert_booked(plane, budget, ANTHROPIC.cost, "completed exact")


async def test_a_thousand_unknown_keys_leave_the_known_one_working(plane: Plane) -> None:
    async with await plane.connect() as client:
        raw = plane.request()
        secret = plane.key.secret.encode()
        for n in range(300):
            client.send(raw.replace(secret, b"ns_live_sk_%032x" % n))
            assert (await client.reply()).status == 401
        client.send(raw)
        assert (await client.reply()).status == 200
    assert len(plane.upstream.requests) == 1


async def test_a_call_that_leaves_while_its_hold_is_made_leaves_nothing(plane: Plane) -> None:
    """Fifty clients that leave at any moment: whatever was sent is charged, and nothing stays held."""
    plane.upstream.play = whole(OPENAI.reply)
    budget = await plane.tenant.budget(WIDE)
    for delay in range(50):
        async with await plane.connect() as client:
            client.send(plane.request())
            for _ in range(delay):
                await asyncio.sleep(0)
    await until(lambda: not plane.worker._server.in_flight and not plane.worker._journal.depth)
    spends = await plane.tenant.entries()
    assert sum(spend.event.outcome == "completed" for spend in spends) == len(plane.upstream.requests)
    state = await plane.tenant.state(budget)
    assert (state.settled, state.held) == (sum(spend.cost for spend in spends), 0)
    assert {(spend.event.outcome, spend.cost) for spend in spends} <= {("completed", OPENAI.cost), ("never_sent", 0)}
