"""Bodies pass byte for byte in both directions, but for the one insertion that is announced and taken back."""

import json
import random

import pytest

from tests.integration.data_plane.booked import WIDE, assert_booked
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.harness import Plane
from tests.integration.data_plane.surfaces import ANTHROPIC, GEMINI, OPENAI, SURFACES, Surface
from tests.integration.data_plane.upstream import Received, Wire, head, stream, whole

each_surface = pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
ODD = b'"odd" : 12345678901234567890123, "e":1.0e+2,\t"dup":1,"dup" :2,"u":"\\u00e9\\/ \xc3\xa9\xf0\x9f\x98\x80" ,'
INSERTED = b',"stream_options":{"include_usage":true}'


def odd_reply(surface: Surface) -> bytes:
    """A reply that no JSON library would write like this."""
    return b"\r\n {" + ODD + surface.reply[1:] + b"\n\n \t"


@each_surface
async def test_a_reply_arrives_as_it_was_sent(plane: Plane, surface: Surface) -> None:
    plane.upstream.play = whole(odd_reply(surface))
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface)
    assert reply.body == odd_reply(surface)
    assert reply.header("content-length") == str(len(reply.body))
    await assert_booked(plane, budget, surface.cost, "completed exact")


@each_surface
@pytest.mark.parametrize("size", [1, 255 * 1024, 257 * 1024, 3 * 1024 * 1024])
@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
async def test_a_reply_of_any_size_and_framing_arrives_whole(
    plane: Plane, surface: Surface, size: int, framing: str
) -> None:
    body = surface.reply + b" " * size

    async def play(request: Received, wire: Wire) -> None:
        if framing == "chunks":
            wire.begin(b"application/json")
            for at in range(0, len(body), 50_000):
                wire.chunk(body[at : at + 50_000])
            wire.end()
            return
        length = [b"Content-Length: %d" % len(body)] if framing == "length" else []
        wire.send(head(200, b"application/json", *length) + body)
        if framing == "end":
            wire.close()

    plane.upstream.play = play
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface)
    assert (reply.body, reply.complete) == (body, True)
    await assert_booked(plane, budget, surface.cost, "completed exact")


@each_surface
async def test_a_request_arrives_as_it_was_sent(plane: Plane, surface: Surface) -> None:
    body = b" {" + ODD + surface.body()[1:] + b"\r\n"
    assert (await plane.call(surface, body=body)).status == 200
    assert plane.upstream.requests[0].body == body


@each_surface
async def test_a_request_in_chunks_arrives_with_a_length(plane: Plane, surface: Surface) -> None:
    body = surface.body(padding="y" * 5000)
    pieces = [body[at : at + 777] for at in range(0, len(body), 777)]
    raw = plane.request(surface, body=b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    raw += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-NullSpend-Key: no\r\n\r\n"
    assert (await plane.send(raw)).status == 200
    (received,) = plane.upstream.requests
    assert (received.body, received.header(b"content-length")) == (body, b"%d" % len(body))
    assert received.header(b"transfer-encoding") is None


async def test_a_body_of_twenty_megabytes_passes(plane: Plane) -> None:
    url = "data:image/png;base64," + "A" * 20_000_000
    content = [{"type": "image_url", "image_url": {"url": url}}]
    body = json.dumps({"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": content}]})
    assert (await plane.call(body=body.encode())).status == 200
    assert plane.upstream.requests[0].body == body.encode()


def as_unasked(pieces: tuple[bytes, ...]) -> bytes:
    """The stream as the provider sends it to those who did not ask for usage."""
    return b"".join(pieces).replace(b',"usage":null', b"").replace(pieces[-2], b"")


async def test_usage_is_asked_for_in_a_stream_and_its_trace_is_removed(plane: Plane) -> None:
    body = OPENAI.body(stream=True)
    reply = await plane.call(body=body)
    (received,) = plane.upstream.requests
    assert received.body == body[:-1] + INSERTED + b"}"
    assert received.header(b"content-length") == b"%d" % len(received.body)
    assert reply.header("X-NullSpend-Modified") == "stream_options"
    assert reply.body == as_unasked(OPENAI.pieces)


@pytest.mark.parametrize(
    ("switch", "sent"),
    [
        (b"null", b'{"include_usage":true}'),
        (b"{}", b'{"include_usage":true}'),
        (b' {"include_obfuscation": false}', b' {"include_usage":true,"include_obfuscation": false}'),
    ],
)
async def test_an_open_switch_is_closed_where_it_stands(plane: Plane, switch: bytes, sent: bytes) -> None:
    body = OPENAI.body(stream=True)[:-1] + b',"stream_options":' + switch + b"}"
    reply = await plane.call(body=body)
    assert plane.upstream.requests[0].body == body.replace(switch, sent)
    assert reply.body == as_unasked(OPENAI.pieces)
    assert (await plane.tenant.spent()).cost == OPENAI.cost


@pytest.mark.parametrize("switch", [b'{"include_usage":true}', b'{"include_usage":false}', b"[]", b"7"])
async def test_a_switch_that_was_set_is_left_alone(plane: Plane, switch: bytes) -> None:
    body = OPENAI.body(stream=True)[:-1] + b',"stream_options":' + switch + b"}"
    reply = await plane.call(body=body)
    assert plane.upstream.requests[0].body == body
    assert "x-nullspend-modified" not in reply.names()
    assert reply.body == b"".join(OPENAI.pieces)


@pytest.mark.parametrize("surface", [ANTHROPIC, GEMINI], ids=lambda surface: surface.name)
async def test_streams_that_always_tell_their_usage_are_left_alone(plane: Plane, surface: Surface) -> None:
    body = surface.body(stream=True)
    reply = await plane.call(surface, stream=True, body=body)
    assert plane.upstream.requests[0].body == body
    assert "x-nullspend-modified" not in reply.names()
    assert reply.body == b"".join(surface.pieces)


@each_surface
@pytest.mark.parametrize("seed", range(6))
async def test_a_stream_arrives_the_same_however_it_is_cut(plane: Plane, surface: Surface, seed: int) -> None:
    rng = random.Random(seed)
    body = b": comment\n\n" + b"".join(surface.pieces)
    cuts = sorted(rng.sample(range(1, len(body)), 1 + 20 * seed))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    plane.upstream.play = stream(pieces)
    budget = await plane.tenant.budget(WIDE)
    reply = await plane.call(surface, stream=True)
    wanted = as_unasked(OPENAI.pieces) if surface is OPENAI else b"".join(surface.pieces)
    assert reply.body == b": comment\n\n" + wanted
    await assert_booked(plane, budget, surface.cost, "completed exact")


async def test_every_chunk_leaves_when_it_came(plane: Plane) -> None:
    """The provider sends its next piece only when the client has the one before."""
    turns = list(ANTHROPIC.pieces)
    wires: list[Wire] = []

    async def play(request: Received, wire: Wire) -> None:
        wire.begin()
        wire.chunk(turns.pop(0))
        wires.append(wire)

    plane.upstream.play = play
    async with await plane.connect() as caller:
        caller.send(plane.request(ANTHROPIC, stream=True))
        await caller.head()
        seen = [await caller.chunk()]
        while turns:
            wires[0].chunk(turns.pop(0))
            seen.append(await caller.chunk())
        wires[0].end()
        assert await caller.chunk() == b""
    assert tuple(seen) == ANTHROPIC.pieces


async def test_the_query_and_the_raw_path_are_forwarded_byte_for_byte(plane: Plane) -> None:
    target = "/v1/mess%61ges?beta=true&x=%2F%2f+&&y"
    plane.upstream.play = whole(ANTHROPIC.reply)
    assert (await plane.call(ANTHROPIC, target=target)).status == 200
    assert plane.upstream.requests[0].line == f"POST {target} HTTP/1.1".encode()


async def test_a_doubled_version_is_served_and_announced(plane: Plane) -> None:
    reply = await plane.call(target="/v1/v1/chat/completions?a=1")
    assert reply.header("X-NullSpend-Warning") == "base_url"
    assert plane.upstream.requests[0].line == b"POST /v1/chat/completions?a=1 HTTP/1.1"


async def test_the_announced_warning_survives_a_change_of_policy(new_plane: NewPlane) -> None:
    plane = await new_plane()
    assert (await plane.call()).status == 200
    plane.tenant.announces = False
    await plane.tenant.bump()
    reply = await plane.call(target="/v1/v1/chat/completions")
    assert reply.header("X-NullSpend-Warning") == "base_url"
