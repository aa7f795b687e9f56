"""The official clients through the proxy and directly: what comes back is the same, and what it cost is on record."""

import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from deploy.demo.script import TokenUsage
from tests.support.control import Control, Event
from tests.support.official import TOOL, Answer, Dialect, Question, ask, ask_async
from tests.support.prices import RATES
from tests.support.product import Product, environment
from tests.support.scripted import say
from tests.support.upstreams import Place, Scripted, at_root, await_answer, llmock
from tests.support.waiting import free_port

_VARIES: Final = (
    (re.compile(rb"scripted\d{8}"), b"scripted"),
    (re.compile(rb"\b(chatcmpl-|msg_|call_|toolu_)[0-9a-f]{24}\b"), rb"\1id"),
    (re.compile(rb'"created":\d+'), b'"created":0'),
    (re.compile(rb'"obfuscation":"[^"]*"'), b'"obfuscation":""'),
)
"""Ids, times and padding: what the upstreams themselves change from one direct call to the next."""
_NEVER_COMPARED: Final = {"date", "content-length", "transfer-encoding", "connection"}
"""Headers of one connection. Request ids are compared less what varies."""


def steady(raw: bytes) -> bytes:
    """Less what the upstream itself varies."""
    for pattern, constant in _VARIES:
        raw = pattern.sub(constant, raw)
    return raw


def comparable(answer: Answer) -> tuple[int, bytes, list[bytes]]:
    return answer.take.status, steady(answer.body), [steady(event.encode()) for event in answer.events]


def provider_headers(answer: Answer) -> dict[str, bytes]:
    return {
        name: steady(value.encode())
        for name, value in answer.take.headers.items()
        if name not in _NEVER_COMPARED and not name.startswith("x-llmock")
    }


@dataclass(frozen=True, slots=True)
class Labels:
    """What a caller says of its call, and finds again in its event."""

    session: str
    trace: str
    key: str

    @classmethod
    def new(cls, key: str) -> "Labels":
        return cls(f"run-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex, key)

    def headers(self) -> dict[str, str]:
        tags = orjson.dumps({"feature": "e2e", "team": "core"}).decode()
        return {
            "X-NullSpend-Key": self.key,
            "X-NullSpend-Customer": "acme",
            "X-NullSpend-Session": self.session,
            "X-NullSpend-Trace-Id": self.trace,
            "X-NullSpend-Tags": tags,
        }

    def check(self, event: Event) -> None:
        assert (event["customerId"], event["sessionId"], event["traceId"]) == ("acme", self.session, self.trace)
        assert event["tags"] == {"customer": "acme", "feature": "e2e", "team": "core"}


async def assert_same_and_recorded(
    question: Question, direct: Place, proxied: Place, control: Control
) -> list[tuple[Answer, Event]]:
    """Asks blocking and awaiting, directly and through the proxy. Returns the proxied answers with their events."""
    found = []
    for blocking in (True, False):
        labels = Labels.new(control.key)
        if blocking:
            first, second = ask(question, direct), ask(question, direct)
            through = ask(question, proxied, labels.headers())
        else:
            first, second = await ask_async(question, direct), await ask_async(question, direct)
            through = await ask_async(question, proxied, labels.headers())
        assert comparable(first) == comparable(second), "the upstream varies in more than is known"
        assert comparable(through) == comparable(first)
        headers, passed = provider_headers(first), provider_headers(through)
        assert {name: passed.get(name) for name in headers} == headers
        (event,) = await control.recorded(1, sessionId=labels.session)
        assert event["id"] == f"ns_evt_{through.take.headers['x-nullspend-request-id']}"
        labels.check(event)
        assert (event["outcome"], event["streaming"], event["httpStatus"]) == ("completed", question.stream, 200)
        found.append((through, event))
    return found


def assert_exact(event: Event, cost: int) -> None:
    assert (event["costMicrodollars"], event["costSource"], event["flags"]) == (cost, "exact", [])


# ------------------------------------------------------------------------------------------ the scripted provider

_OPENAI: Final = say(**{"in": 1000, "cached": 200, "out": 500, "reasoning": 100}, text="Ciao ☕ \n“fine” \\ done")
_ANTHROPIC: Final = say(
    **{"in": 10_000, "cached": 4000, "cache_write_5m": 1500, "cache_write_1h": 500, "out": 700}, text="Ciao ☕ cached"
)
_GEMINI: Final = say(**{"in": 3000, "cached": 1000, "out": 900, "reasoning": 300}, text="Ciao ☕ thought")


@dataclass(frozen=True, slots=True)
class Due:
    """What an event must say."""

    cost: int
    tokens: tuple[int, int, int, int]
    """Input with all that is cached, output with reasoning, read from the cache, reasoning."""
    parts: tuple[int, int, int]
    """Microdollars of uncached input, of output, of cache reads and writes."""


_DUE: Final = {
    # 800 at 2.50 and 200 at 1.25 dollars a million in, 500 at 10 out.
    "openai": Due(7250, (1000, 500, 200, 100), (2000, 5000, 250)),
    # 4,000 at 3, 4,000 read at 0.30, 1,500 written at 3.75 and 500 at 6; 700 at 15 out.
    "anthropic": Due(32_325, (10_000, 700, 4000, 0), (12_000, 10_500, 9825)),
    # 2,000 at 1.25 and 1,000 at 0.125 in, 900 at 10 out.
    "gemini": Due(11_625, (3000, 900, 1000, 300), (2500, 9000, 125)),
}
SCRIPTED: Final = {
    "openai": Question("openai", "gpt-4o", _OPENAI),
    "openai-stream": Question("openai", "gpt-4o", _OPENAI, stream=True),
    "openai-stream-with-usage": Question("openai", "gpt-4o", _OPENAI, stream=True, usage=True),
    "anthropic": Question("anthropic", "claude-sonnet-4-6", _ANTHROPIC),
    "anthropic-stream": Question("anthropic", "claude-sonnet-4-6", _ANTHROPIC, stream=True),
    "gemini": Question("gemini", "gemini-2.5-pro", _GEMINI),
    "gemini-stream": Question("gemini", "gemini-2.5-pro", _GEMINI, stream=True),
}


@pytest.mark.parametrize("name", SCRIPTED)
async def test_a_scripted_reply_is_the_direct_one_and_costs_what_the_provider_publishes(
    name: str, product: Product, scripted: Scripted, control: Control
) -> None:
    question = SCRIPTED[name]
    due = _DUE[question.dialect]
    for _, event in await assert_same_and_recorded(question, scripted.place, at_root(product.url), control):
        assert_exact(event, due.cost)
        tokens = (event["inputTokens"], event["outputTokens"], event["cachedInputTokens"], event["reasoningTokens"])
        assert tokens == due.tokens
        parts = event["costBreakdown"]
        assert (parts["input"], parts["output"], parts["cached"], parts["tools"]) == (*due.parts, 0)


async def test_half_a_microdollar_is_rounded_up(product: Product, scripted: Scripted, control: Control) -> None:
    question = Question("openai", "gpt-4o", say(**{"in": 1, "out": 1}, text="!"))
    for _, event in await assert_same_and_recorded(question, scripted.place, at_root(product.url), control):
        assert_exact(event, 13)  # 2.5 and 10


async def test_a_caller_who_wants_no_usage_gets_none_and_is_charged_what_was_seen(
    product: Product, scripted: Scripted, control: Control
) -> None:
    text = say(**{"in": 1000, "out": 500}, text="one two three four five six seven eight nine ten", chunks=10)
    question = Question("openai", "gpt-4o", text, stream=True, usage=False)
    for through, event in await assert_same_and_recorded(question, scripted.place, at_root(product.url), control):
        assert (event["costSource"], event["flags"]) == ("counted", ["estimated", "no_usage"])
        input_bound = -(-len(through.take.request.content) // 2)
        seen = -(-len("one two three four five six seven eight nine ten") // 3)
        assert event["costMicrodollars"] == RATES["gpt-4o"].cost(TokenUsage(input_bound, seen))


# ------------------------------------------------------------------------------------------ llmock

_MODELS: Final[dict[Dialect, str]] = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-6", "gemini": "gemini-2.5-pro"}
_WEATHER: Final = "What is the weather in Rome, and what shall I wear?"


@pytest.fixture(scope="module")
def mock(room: Path) -> Iterator[Place]:
    with llmock(room / "llmock.log") as place:
        yield place


@pytest.fixture(scope="module")
def before_mock(product: Product, mock: Place, room: Path, slow_machine: dict[str, str]) -> Iterator[Place]:
    """One more worker of the same deployment, on a port of its own, that forwards to llmock."""
    port = free_port()
    runtime = orjson.loads((product.data / "runtime.json").read_bytes())
    settings = {
        **mock.settings(),
        **slow_machine,
        "NULLSPEND_REDIS_URL": runtime["NULLSPEND_REDIS_URL"],
        "NULLSPEND_PORT": str(port),
        "NULLSPEND_WORKER": "mock",
    }
    command = [sys.executable, "-m", "data_plane"]
    with (
        (room / "before-mock.log").open("wb") as log,
        subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log) as process,
    ):
        try:
            await_answer(f"http://127.0.0.1:{port}/health/ready", process)
            yield at_root(f"http://127.0.0.1:{port}", gemini_version=mock.gemini_version)
        finally:
            process.terminate()


def reported(dialect: str, body: bytes) -> TokenUsage:
    """The usage in a whole JSON reply of llmock."""
    document: dict[str, Any] = orjson.loads(body)
    match dialect:
        case "openai":
            return TokenUsage(document["usage"]["prompt_tokens"], document["usage"]["completion_tokens"])
        case "anthropic":
            return TokenUsage(document["usage"]["input_tokens"], document["usage"]["output_tokens"])
        case _:
            usage = document["usageMetadata"]
            return TokenUsage(usage["promptTokenCount"], usage["candidatesTokenCount"])


_PLAIN: Final = tuple(Question(dialect, model, _WEATHER) for dialect, model in _MODELS.items())
LLMOCK: Final = {
    **{f"{question.dialect}-whole": question for question in _PLAIN},
    **{f"{question.dialect}-stream": replace(question, stream=True) for question in _PLAIN},
    "openai-stream-with-usage": replace(_PLAIN[0], stream=True, usage=True),
}


@pytest.mark.parametrize("tool", [False, True], ids=["text", "tool-call"])
@pytest.mark.parametrize("name", LLMOCK)
async def test_a_reply_of_llmock_is_the_direct_one_and_costs_what_it_reports(
    name: str, tool: bool, mock: Place, before_mock: Place, control: Control
) -> None:
    question = replace(LLMOCK[name], tool=tool)
    # The same question as a whole reply says its usage on every surface.
    usage = reported(question.dialect, ask(replace(question, stream=False, usage=None), mock).body)
    for through, event in await assert_same_and_recorded(question, mock, before_mock, control):
        assert_exact(event, RATES[question.model].cost(usage))
        assert (event["inputTokens"], event["outputTokens"]) == (usage.input, usage.output)
        assert [call["name"] for call in event["toolCalls"]] == ([TOOL] if tool else [])
        assert (TOOL.encode() in through.body) == tool
