"""The official, unmodified clients of three providers, asked the same way: once blocking, once awaiting."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import anthropic
import httpx2
import openai
from google import genai
from google.genai import types as genai_types

from tests.support.tape import AsyncTape, Take, Tape
from tests.support.upstreams import Place

Dialect = Literal["openai", "anthropic", "gemini"]
DIALECTS: Final[tuple[Dialect, ...]] = ("openai", "anthropic", "gemini")
PROVIDER_KEY: Final = "a-provider-key"
TIMEOUT_S: Final = 60.0

_PARAMETERS: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_ABOUT: Final = "The weather of a city"
TOOL: Final = "get_weather"


@dataclass(frozen=True, slots=True)
class Question:
    """What a client is to ask. `usage` is OpenAI's `include_usage`, None leaves it out."""

    dialect: Dialect
    model: str
    text: str
    stream: bool = False
    usage: bool | None = None
    tool: bool = False
    limit: int = 1000

    def arguments(self) -> dict[str, Any]:
        """As the client's own method takes it."""
        if self.dialect == "gemini":
            config: dict[str, Any] = {"max_output_tokens": self.limit}
            if self.tool:
                function = {"name": TOOL, "description": _ABOUT, "parameters_json_schema": _PARAMETERS}
                config["tools"] = [{"function_declarations": [function]}]
            return {"model": self.model, "contents": self.text, "config": config}
        messages = [{"role": "user", "content": self.text}]
        found: dict[str, Any] = {"model": self.model, "max_tokens": self.limit, "messages": messages}
        if self.stream:
            found["stream"] = True
        if self.usage is not None:
            found["stream_options"] = {"include_usage": self.usage}
        if self.tool:
            found["tools"] = [_openai_tool() if self.dialect == "openai" else _anthropic_tool()]
        return found


def _openai_tool() -> dict[str, Any]:
    return {"type": "function", "function": {"name": TOOL, "description": _ABOUT, "parameters": _PARAMETERS}}


def _anthropic_tool() -> dict[str, Any]:
    return {"name": TOOL, "description": _ABOUT, "input_schema": _PARAMETERS}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the one attempt on the wire, and what the client made of it (one event, or one each)."""

    take: Take
    events: list[str]

    @property
    def body(self) -> bytes:
        return bytes(self.take.body)


def ask(question: Question, place: Place, headers: dict[str, str] | None = None) -> Answer:
    """Blocking."""
    tape = Tape()
    with httpx2.Client(transport=tape, timeout=TIMEOUT_S) as http:
        match question.dialect:
            case "openai":
                with openai_client(place, headers, http) as chat:
                    got: Any = chat.chat.completions.create(**question.arguments())
                    events = list(got) if question.stream else [got]
            case "anthropic":
                with anthropic_client(place, headers, http) as claude:
                    got = claude.messages.create(**question.arguments())
                    events = list(got) if question.stream else [got]
            case "gemini":
                with genai.Client(api_key=PROVIDER_KEY, http_options=genai_options(place, headers, http)) as gemini:
                    models = gemini.models
                    if question.stream:
                        events = list(models.generate_content_stream(**question.arguments()))
                    else:
                        events = [models.generate_content(**question.arguments())]
    return _answer(tape.takes, events)


async def ask_async(question: Question, place: Place, headers: dict[str, str] | None = None) -> Answer:
    """Awaiting."""
    tape = AsyncTape()
    async with httpx2.AsyncClient(transport=tape, timeout=TIMEOUT_S) as http:
        match question.dialect:
            case "openai":
                async with openai.AsyncOpenAI(
                    base_url=place.openai, api_key=PROVIDER_KEY, default_headers=headers, http_client=http
                ) as chat:
                    got: Any = await chat.chat.completions.create(**question.arguments())
                    events = [event async for event in got] if question.stream else [got]
            case "anthropic":
                async with anthropic.AsyncAnthropic(
                    base_url=place.anthropic, api_key=PROVIDER_KEY, default_headers=headers, http_client=http
                ) as claude:
                    got = await claude.messages.create(**question.arguments())
                    events = [event async for event in got] if question.stream else [got]
            case "gemini":
                events = await _ask_gemini(question, place, headers, http)
    return _answer(tape.takes, events)


async def _ask_gemini(
    question: Question, place: Place, headers: dict[str, str] | None, http: httpx2.AsyncClient
) -> list[Any]:
    options = genai_types.HttpOptions(
        base_url=place.gemini, api_version=place.gemini_version, headers=headers, httpx_async_client=http
    )
    with genai.Client(api_key=PROVIDER_KEY, http_options=options) as gemini:
        async with gemini.aio as awaiting:
            if not question.stream:
                return [await awaiting.models.generate_content(**question.arguments())]
            return [event async for event in await awaiting.models.generate_content_stream(**question.arguments())]


def openai_client(place: Place, headers: dict[str, str] | None, http: httpx2.Client | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=place.openai, api_key=PROVIDER_KEY, default_headers=headers, http_client=http)


def anthropic_client(
    place: Place, headers: dict[str, str] | None, http: httpx2.Client | None = None
) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=place.anthropic, api_key=PROVIDER_KEY, default_headers=headers, http_client=http
    )


def genai_options(
    place: Place, headers: dict[str, str] | None, http: httpx2.Client | None = None
) -> genai_types.HttpOptions:
    return genai_types.HttpOptions(
        base_url=place.gemini, api_version=place.gemini_version, headers=headers, httpx_client=http
    )


def _answer(takes: list[Take], events: list[Any]) -> Answer:
    assert len(takes) == 1, [take.status for take in takes]
    # Google's client keeps the reply's headers in each event; they are compared apart.
    return Answer(takes[0], [event.model_dump_json(exclude={"sdk_http_response"}) for event in events])
