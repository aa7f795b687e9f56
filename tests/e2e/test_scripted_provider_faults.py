"""What the scripted provider does when a script asks for faults, and what its account says about them."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from deploy.demo.provider import ScriptedProvider
from deploy.demo.script import TokenUsage
from tests.support.scripted import TOLD, USAGE, body, only, read_all, settled


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
async def raw(provider: ScriptedProvider) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=provider.url, timeout=5) as client:
        yield client


@pytest.mark.parametrize(
    "script",
    [
        {"inn": 1},
        {"in": -1},
        {"in": 1, "cached": 2},
        {"out": 1, "reasoning": 2},
        {"text": "abc", "chunks": 4},
        {"fault": "explode"},
        {"fault": "cut_after_chunks"},
        {"fault": "cut_after_chunks:99"},
        {"status": 302},
        {"status": 200, "fault": "usage_in_error"},
    ],
)
async def test_a_script_that_cannot_be_obeyed_is_refused(
    provider: ScriptedProvider, raw: httpx2.AsyncClient, script: dict[str, object]
) -> None:
    reply = await raw.post("/v1/chat/completions", json=body(**script))
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (only(provider).status, only(provider).usage) == (400, TokenUsage())


async def test_usage_in_error_is_a_refusal_that_is_billed(provider: ScriptedProvider, raw: httpx2.AsyncClient) -> None:
    reply = await raw.post("/v1/chat/completions", json=body(**USAGE, fault="usage_in_error"))
    assert (reply.status_code, reply.json()["usage"]["total_tokens"]) == (500, 1500)
    assert (only(provider).usage, only(provider).usage_sent) == (TOLD, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_no_usage_leaves_the_usage_out(
    provider: ScriptedProvider, raw: httpx2.AsyncClient, *, stream: bool
) -> None:
    asked_for = body(stream=stream, **USAGE, fault="no_usage") | {"stream_options": {"include_usage": True}}
    reply = await raw.post("/v1/chat/completions", json=asked_for)
    assert "usage" not in reply.text
    assert (only(provider).usage, only(provider).usage_sent, only(provider).completed) == (TOLD, False, True)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unparsable_reply_is_complete_and_not_json(
    provider: ScriptedProvider, raw: httpx2.AsyncClient, *, stream: bool
) -> None:
    reply = await raw.post("/v1/chat/completions", json=body(stream=stream, **USAGE, fault="unparsable"))
    with pytest.raises(json.JSONDecodeError):
        json.loads(reply.text.split("data: ")[2] if stream else reply.text)
    assert (reply.status_code, only(provider).completed, only(provider).usage_sent) == (200, True, False)


@pytest.mark.parametrize("stream", [False, True])
async def test_gzip_compresses_what_nobody_asked_to_be_compressed(
    provider: ScriptedProvider, raw: httpx2.AsyncClient, *, stream: bool
) -> None:
    script = body(stream=stream, **USAGE, text="Squeezed.", chunks=1, fault="gzip")
    reply = await raw.post("/v1/chat/completions", json=script, headers={"accept-encoding": "identity"})
    assert (reply.status_code, reply.headers["content-encoding"]) == (200, "gzip")
    assert '"content":"Squeezed."' in reply.text
    assert (only(provider).usage, only(provider).completed) == (TOLD, True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["reset_before_headers", "reset_after_headers"])
async def test_resets_come_where_they_are_scripted(
    provider: ScriptedProvider, raw: httpx2.AsyncClient, fault: str, *, stream: bool
) -> None:
    script = body(stream=stream, **USAGE, fault=fault)
    head, _, failure = await read_all(raw, script)
    assert isinstance(failure, httpx2.ReadError)
    assert head == (None if fault == "reset_before_headers" else 200)
    served = only(provider)
    assert (served.completed, served.client_gone, served.usage, served.status) == (False, False, TOLD, head or 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_reply_ends_after_the_scripted_chunks(
    provider: ScriptedProvider, raw: httpx2.AsyncClient, *, stream: bool
) -> None:
    script = body(stream=stream, **USAGE, chunks=4, fault="cut_after_chunks:3")
    _, received, failure = await read_all(raw, script)
    assert isinstance(failure, httpx2.RemoteProtocolError)
    served = only(provider)
    assert (served.completed, served.client_gone, served.chunks_sent, served.usage_sent) == (False, False, 3, False)
    if stream:
        assert received.count(b"data: ") == 1 + 3
    else:
        assert received.startswith(b'{"id":')


@pytest.mark.parametrize("fault", ["hang", "hang_after_chunks:2"])
async def test_a_hang_lasts_until_the_client_leaves(
    provider: ScriptedProvider, raw: httpx2.AsyncClient, fault: str
) -> None:
    with pytest.raises(httpx2.ReadTimeout):
        await raw.post("/v1/chat/completions", json=body(stream=True, **USAGE, fault=fault), timeout=0.2)
    await settled(provider)
    served = only(provider)
    assert (served.client_gone, served.completed, served.usage) == (True, False, TOLD)
    assert served.chunks_sent == (0 if fault == "hang" else 2)


async def test_a_client_that_leaves_mid_stream_is_noticed(provider: ScriptedProvider, raw: httpx2.AsyncClient) -> None:
    script = body(stream=True, **USAGE, chunks=50, delay_ms=20)
    async with raw.stream("POST", "/v1/chat/completions", json=script) as reply:
        lines = reply.aiter_lines()
        for _ in range(6):
            await anext(lines)
    await settled(provider)
    served = only(provider)
    assert (served.client_gone, served.completed, served.usage_sent) == (True, False, False)
    assert 0 < served.chunks_sent < 50
    assert provider.stats().totals.incomplete.usage == TOLD


async def test_chunked_uploads_and_expectations_are_read(provider: ScriptedProvider) -> None:
    payload = json.dumps(body(**USAGE)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
    reader, writer = await connect(provider)
    for _ in range(2):  # on one connection
        writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for part in (payload[:50], payload[50:]):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")
        assert b'"total_tokens":1500' in await read_reply(reader)
    writer.close()
    await writer.wait_closed()


async def test_pipelined_requests_are_answered_in_their_order(provider: ScriptedProvider) -> None:
    reader, writer = await connect(provider)
    writer.write(b"".join(request(f"r{number}", body(text=f"no. {number}", delay_ms=1)) for number in range(5)))
    for number in range(5):
        assert f'"content":"no. {number}"'.encode() in await read_reply(reader)
    writer.close()
    await writer.wait_closed()


async def test_thousands_of_concurrent_replies_are_all_accounted_for(
    provider: ScriptedProvider, raw: httpx2.AsyncClient
) -> None:
    total, hands = 4000, 80

    async def work(hand: int) -> None:
        reader, writer = await connect(provider)
        for number in range(hand, total, hands):
            script = body(stream=number % 3 == 0, chunks=3, **{"in": number + 1, "out": 3})
            writer.write(request(f"r{number}", script))
            assert (await read_reply(reader)).endswith((b"}", b"data: [DONE]\n\n\r\n0\r\n\r\n"))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(work(hand) for hand in range(hands)))
    stats = (await raw.get("/_script/stats")).json()
    assert (stats["requests"], stats["in_flight"], stats["by_status"]) == (total, 0, {"200": total})
    assert {entry["tag"]: entry["usage"]["input"] for entry in stats["served"]} == {
        f"r{number}": number + 1 for number in range(total)
    }
    completed = stats["totals"]["completed"]
    assert (completed["replies"], completed["usage"]["input"]) == (total, total * (total + 1) // 2)
    assert completed["usage"]["output"] == 3 * total
    assert stats["by_model"]["gpt-4o"]["completed"] == completed


async def connect(provider: ScriptedProvider) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(provider.url.rpartition(":")[2]))


def request(tag: str, script: dict[str, object]) -> bytes:
    payload = json.dumps(script).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-request-tag: {tag}\r\ncontent-length: {len(payload)}"
    return head.encode() + b"\r\n\r\n" + payload


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """The body of a 200 as it was framed."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    _, has_length, rest = head.partition(b"content-length: ")
    if has_length:
        return await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    return await reader.readuntil(b"\r\n0\r\n\r\n")
