"""The scripted provider as the official, unmodified clients see it, and its account of what it served."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from deploy.demo.provider import ScriptedProvider
from deploy.demo.script import TokenUsage
from tests.support.scripted import TOLD, USAGE, body, only, say


def said(**script: object) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": say(**script)}]


def asked(**script: object) -> list[anthropic.types.MessageParam]:
    return [{"role": "user", "content": say(**script)}]


@pytest.fixture
async def provider() -> AsyncIterator[ScriptedProvider]:
    async with ScriptedProvider() as provider:
        yield provider


@pytest.fixture
async def chat(provider: ScriptedProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="k", max_retries=0, timeout=5) as client:
        yield client


@pytest.fixture
async def claude(provider: ScriptedProvider) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=provider.url, api_key="k", max_retries=0, timeout=5) as client:
        yield client


@asynccontextmanager
async def gemini(provider: ScriptedProvider, version: str = "v1beta") -> AsyncIterator[genai.client.AsyncClient]:
    options = genai_types.HttpOptions(base_url=provider.url, api_version=version, timeout=5000)
    client = genai.Client(api_key="k", http_options=options)
    try:
        async with client.aio as asynchronous:
            yield asynchronous
    finally:
        client.close()


@pytest.fixture
async def raw(provider: ScriptedProvider) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=provider.url, timeout=5) as client:
        yield client


async def test_openai_replies_with_the_scripted_text_and_usage(
    provider: ScriptedProvider, chat: openai.AsyncOpenAI
) -> None:
    reply = await chat.chat.completions.create(
        model="gpt-4o", messages=said(**USAGE, text="Ciao ☕", model="gpt-4o-2024-08-06", service_tier="flex")
    )
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Ciao ☕", "stop")
    assert (reply.model, reply.service_tier) == ("gpt-4o-2024-08-06", "flex")
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.completion_tokens_details is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (1000, 500, 1500)
    assert reply.usage.prompt_tokens_details.cached_tokens == 200
    assert reply.usage.completion_tokens_details.reasoning_tokens == 100
    served = only(provider)
    assert (served.id, served.model, served.usage, served.usage_sent) == (reply.id, reply.model, TOLD, True)
    assert (served.completed, served.status, served.service_tier) == (True, 200, "flex")


async def test_an_openai_stream_ends_with_a_usage_chunk_when_asked(
    provider: ScriptedProvider, chat: openai.AsyncOpenAI
) -> None:
    chunks = [
        chunk
        async for chunk in await chat.chat.completions.create(
            model="gpt-4o",
            messages=said(**USAGE, chunks=7, text="A reply in pieces."),
            stream=True,
            stream_options={"include_usage": True},
        )
    ]
    *content, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in content) == "A reply in pieces."
    assert len(content) == 1 + 7 + 1, "the role, the pieces, the finish reason"
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in content)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (1000, 500)
    served = only(provider)
    assert (served.chunks_sent, served.text_bytes_sent, served.usage, served.usage_sent) == (7, 18, TOLD, True)


async def test_an_openai_stream_tells_no_usage_unless_asked(
    provider: ScriptedProvider, raw: httpx2.AsyncClient
) -> None:
    reply = await raw.post("/v1/chat/completions", json=body(stream=True, **USAGE))
    assert "usage" not in reply.text
    assert reply.text.endswith("data: [DONE]\n\n")
    assert (only(provider).usage, only(provider).usage_sent, only(provider).completed) == (TOLD, False, True)


async def test_openai_lists_models_that_say_who_owns_them(chat: openai.AsyncOpenAI) -> None:
    assert {model.owned_by async for model in chat.models.list()} == {"scripted"}


async def test_anthropic_counts_cached_and_written_tokens_beside_the_input(
    provider: ScriptedProvider, claude: anthropic.AsyncAnthropic
) -> None:
    reply = await claude.messages.create(
        model="claude-sonnet-5",
        max_tokens=1000,
        messages=asked(**USAGE, cache_write_5m=30, cache_write_1h=70, text="Ciao", service_tier="priority"),
    )
    assert isinstance(reply.content[0], anthropic.types.TextBlock)
    assert reply.content[0].text == "Ciao"
    usage = reply.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (700, 200, 100)
    assert usage.cache_creation is not None
    assert usage.cache_creation.ephemeral_5m_input_tokens == 30
    assert usage.cache_creation.ephemeral_1h_input_tokens == 70
    assert (usage.output_tokens, usage.service_tier) == (500, "priority")
    assert only(provider).usage == TokenUsage(1000, 500, 200, 30, 70, 100)


async def test_an_anthropic_stream_accumulates_to_the_scripted_message(
    provider: ScriptedProvider, claude: anthropic.AsyncAnthropic
) -> None:
    async with claude.messages.stream(
        model="claude-sonnet-5", max_tokens=1000, messages=asked(**USAGE, chunks=5, text="In five pieces.")
    ) as stream:
        pieces = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert (len(pieces), "".join(pieces)) == (5, "In five pieces.")
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (800, 200)
    assert (message.usage.output_tokens, message.stop_reason) == (500, "end_turn")
    assert (only(provider).id, only(provider).usage, only(provider).chunks_sent) == (message.id, TOLD, 5)


@pytest.mark.parametrize("version", ["v1beta", "v1"])
async def test_gemini_replies_with_the_scripted_text_and_usage(provider: ScriptedProvider, version: str) -> None:
    async with gemini(provider, version) as client:
        reply = await client.models.generate_content(
            model="gemini-2.5-flash", contents=say(**USAGE, text="Ciao", model="gemini-2.5-flash-001")
        )
    assert (reply.text, reply.model_version, reply.response_id) == ("Ciao", "gemini-2.5-flash-001", only(provider).id)
    usage = reply.usage_metadata
    assert usage is not None
    assert (usage.prompt_token_count, usage.cached_content_token_count) == (1000, 200)
    assert (usage.candidates_token_count, usage.thoughts_token_count, usage.total_token_count) == (400, 100, 1500)
    assert only(provider).usage == TOLD


async def test_a_gemini_stream_counts_up_to_the_scripted_usage(provider: ScriptedProvider) -> None:
    async with gemini(provider) as client:
        stream = await client.models.generate_content_stream(
            model="gemini-2.5-flash", contents=say(**USAGE, chunks=4, text="In four pieces.")
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.text or "" for chunk in chunks) == "In four pieces."
    counts = [chunk.usage_metadata.candidates_token_count for chunk in chunks if chunk.usage_metadata]
    assert counts == [100, 200, 300, 400, 400]
    assert (only(provider).usage, only(provider).chunks_sent) == (TOLD, 4)


async def test_gemini_streams_a_json_array_unless_sse_is_asked_for(raw: httpx2.AsyncClient) -> None:
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    reply = await raw.post(path, json={"contents": [{"parts": [{"text": say(**USAGE, chunks=3)}]}]})
    assert reply.headers["content-type"].startswith("application/json")
    elements = reply.json()
    assert len(elements) == 4
    assert elements[-1]["usageMetadata"]["totalTokenCount"] == 1500


async def test_without_a_script_replies_follow_from_the_request_and_are_marked(
    provider: ScriptedProvider, chat: openai.AsyncOpenAI
) -> None:
    replies = [
        await chat.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=[{"role": "system", "content": "x" * 400}, {"role": "user", "content": "Hi"}]
        )
        for _ in range(2)
    ]
    assert {reply.headers["x-scripted-provider"] for reply in replies} == {"1"}
    first, second = (reply.parse() for reply in replies)
    assert first.usage is not None
    assert (first.usage, first.choices) == (second.usage, second.choices)
    assert "scripted reply" in (first.choices[0].message.content or "")
    assert first.usage.prompt_tokens == 101
    assert 0 < first.usage.completion_tokens < 100


async def test_without_a_script_the_output_limit_is_kept(chat: openai.AsyncOpenAI) -> None:
    reply = await chat.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], max_tokens=5
    )
    assert reply.usage is not None
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (5, "length")


async def test_a_default_script_serves_all_following_requests_until_reset(
    raw: httpx2.AsyncClient, chat: openai.AsyncOpenAI, provider: ScriptedProvider
) -> None:
    assert (await raw.post("/_script/default", json={"in": 11, "out": 7})).status_code == 200
    first = await chat.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    second = await chat.chat.completions.create(model="gpt-4o", messages=said(out=8))
    assert [
        reply.usage and (reply.usage.prompt_tokens, reply.usage.completion_tokens) for reply in (first, second)
    ] == [
        (11, 7),
        (11, 8),
    ]
    assert (await raw.post("/_script/reset")).status_code == 200
    assert (provider.stats().requests, provider.stats().served) == (0, [])
    third = await chat.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])
    assert third.usage is not None
    assert third.usage.prompt_tokens == 1


async def test_scripted_statuses_raise_each_clients_own_errors(
    provider: ScriptedProvider, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    refused = {"status": 429, "error": "Slow down.", "retry_after_s": 3}
    with pytest.raises(openai.RateLimitError, match="Slow down") as of_openai:
        await chat.chat.completions.create(model="gpt-4o", messages=said(**refused))
    assert (of_openai.value.code, of_openai.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "3")
    with pytest.raises(anthropic.InternalServerError, match="overloaded_error"):
        await claude.messages.create(model="claude-sonnet-5", max_tokens=9, messages=asked(status=529))
    async with gemini(provider) as client:
        stream = await client.models.generate_content_stream(model="gemini-2.5-flash", contents=say(**refused))
        with pytest.raises(genai_errors.ClientError) as of_gemini:
            await anext(stream)
    assert (of_gemini.value.code, of_gemini.value.status) == (429, "RESOURCE_EXHAUSTED")
    stats = provider.stats()
    assert stats.by_status == {"429": 2, "529": 1}
    assert {served.usage for served in stats.served} == {TokenUsage()}, "a refusal is not billed"


async def test_an_error_in_a_stream_raises_the_clients_errors(
    provider: ScriptedProvider, chat: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic
) -> None:
    script = {"chunks": 4, "fault": "error_after_chunks:2", "error": "Broke down."}
    events = await chat.chat.completions.create(model="gpt-4o", messages=said(**script), stream=True)
    with pytest.raises(openai.APIError, match="Broke down"):
        _ = [chunk async for chunk in events]
    messages = await claude.messages.create(
        model="claude-sonnet-5", max_tokens=9, messages=asked(**script), stream=True
    )
    with pytest.raises(anthropic.APIStatusError, match="Broke down"):
        _ = [event async for event in messages]
    async with gemini(provider) as client:
        stream = await client.models.generate_content_stream(model="gemini-2.5-flash", contents=say(**script))
        with pytest.raises(genai_errors.ServerError, match="Broke down"):
            _ = [chunk async for chunk in stream]
    assert [(served.chunks_sent, served.completed) for served in provider.stats().served] == [(2, False)] * 3


def test_as_a_process_it_says_first_where_it_listens() -> None:
    command = [sys.executable, "-m", "deploy.demo.provider", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            words, _, url = process.stdout.readline().strip().rpartition(" ")
            with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=5) as client:
                reply = client.chat.completions.create(model="gpt-4o", messages=said(text="Ciao"))
        finally:
            process.terminate()
    assert (words, reply.choices[0].message.content, process.returncode) == ("listening on", "Ciao", 0)
