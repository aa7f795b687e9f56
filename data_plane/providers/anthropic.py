"""Anthropic messages: request, JSON reply and our error. Not here: usage and the stream (`anthropic_stream`)."""

from typing import Any, Final

from data_plane.providers.anthropic_stream import MessageMeter, metered, read_block, read_message
from data_plane.providers.counts import context, details, tier
from data_plane.providers.dialect import CacheWrites, Facts, Reading, StreamMeter
from data_plane.providers.json_text import has_escaped_letters, text_bytes
from data_plane.providers.metering import BodyMeter, read_document
from data_plane.providers.request_body import (
    TOKENS_MAX,
    USES_MAX,
    USES_UNBOUNDED,
    Watch,
    flag,
    members,
    model_name,
    read_object,
    whole_number,
    word,
)

NAME: Final = "anthropic"
TOOLS_PROMPT_TOKENS: Final = 700
"""What the provider adds to the prompt when there are tools (docs: up to 530 today)."""
HOSTED_PROMPT_TOKENS: Final = 6_000
"""What it adds for each hosted tool: instructions of some 2,300 tokens, read again after the tool ran."""
RESULT_TOKENS: Final = 10_000
"""What a search or a fetched page comes back with, read as input within the same call."""

_WATCH: Final = Watch(
    "cache_control",
    "context_management",
    "inference_geo",
    "max_tokens",
    "messages",
    "model",
    "service_tier",
    "speed",
    "stream",
    "thinking",
    "tools",
    "tools.max_uses",
)


class Anthropic:
    """The dialect `anthropic`."""

    name = NAME

    def facts(self, body: bytes, path_model: str | None = None, streaming_path: bool | None = None) -> Facts:
        request = read_object(body, _WATCH)
        model = model_name(request.get("model") if path_model is None else path_model)
        stream = flag(request.get("stream"), "stream") if streaming_path is None else streaming_path
        thinking = details(request, "thinking")
        facts = Facts(
            model=model,
            stream=stream,
            output_tokens_max=whole_number(request.get("max_tokens"), "max_tokens", TOKENS_MAX),
            input_bytes=len(body),
            cache=_cache(body),
            context=context(
                tier(request.get("service_tier")),
                _not_standard(request.get("speed")),
                word(request.get("inference_geo")),
            ),
            reasoning_hidden=thinking.get("type") in {"enabled", "adaptive"} and thinking.get("display") == "omitted",
        )
        for message in members(request.get("messages")):
            _add_media(message.get("content"), facts)
        _add_tools(request, facts)
        if _compacts(request):
            facts.sub_models += (model,)
        return facts

    def prepare(self, body: bytes, facts: Facts) -> tuple[bytes, str | None]:  # noqa: ARG002 - usage always comes
        return body, None

    def read_json(self, body: bytes, facts: Facts) -> Reading:
        return self._read(b"", body, facts)

    def _read(self, head: bytes, body: bytes, facts: Facts) -> Reading:
        return read_document(head, body, "usage", lambda document, reading: _reply(document, facts, reading))

    def meter(self, facts: Facts, *, restore: bool = False) -> StreamMeter:  # noqa: ARG002 - nothing to restore
        def read(head: bytes, body: bytes) -> Reading:
            return self._read(head, body, facts)

        return MessageMeter(facts, read) if facts.stream else BodyMeter(read)

    def denial(self, envelope: dict[str, Any], status: int) -> dict[str, Any]:  # noqa: ARG002 - others need it
        return envelope


def _not_standard(value: Any) -> str:
    name = word(value)
    return "" if name == "standard" else name


def _cache(body: bytes) -> CacheWrites:
    """The longest cache write the body may ask for. A key can hide behind escapes, and then the dearest is assumed."""
    if has_escaped_letters(body):
        return "1h"
    if b'"cache_control"' not in body:
        return ""
    return "1h" if b'"1h"' in body else "5m"


def _add_media(content: Any, facts: Facts) -> None:
    """Counts the media blocks of a content list, nested ones too."""
    for block in members(content):
        kind = word(block.get("type"))
        if kind == "tool_result":
            _add_media(block.get("content"), facts)
        elif kind in {"image", "document"}:
            source = details(block, "source")
            shape = source.get("type")
            if shape == "content":
                _add_media(source.get("content"), facts)
            elif shape != "text":
                facts.add_media(kind, source.get("data") if shape == "base64" else None)


def _add_tools(request: dict[str, Any], facts: Facts) -> None:
    """Fees, further models and the prompt that tools bring with them."""
    tools = members(request.get("tools"))
    if tools:
        facts.provider_prompt_tokens += TOOLS_PROMPT_TOKENS
    for number, tool in enumerate(tools):
        uses = whole_number(tool.get("max_uses"), f"tools[{number}].max_uses", USES_MAX)
        kind = word(tool.get("type"))
        if kind in {"", "custom"}:
            continue
        facts.provider_prompt_tokens += HOSTED_PROMPT_TOKENS
        if kind.startswith(("web_search", "web_fetch")):
            facts.provider_prompt_tokens += RESULT_TOKENS
        if kind.startswith("web_search"):
            facts.fees["web_search"] = facts.fees.get("web_search", 0) + (uses or USES_UNBOUNDED)
        model = tool.get("model")
        if isinstance(model, str) and model:
            facts.sub_models += (model,)


def _compacts(request: dict[str, Any]) -> bool:
    edits = members(details(request, "context_management").get("edits"))
    return any(word(edit.get("type")).startswith("compact") for edit in edits)


def _reply(document: dict[str, Any], facts: Facts, reading: Reading) -> None:
    read_message(document, reading)
    reading.error = document.get("type") == "error"
    content = members(document.get("content"))
    for block in content:
        read_block(block, reading)
    report = document.get("usage")
    if isinstance(report, dict):
        reading.metered = metered(report, facts, reading)
    reading.final = reading.metered is not None
    if not reading.final:
        reading.output_bytes += sum(text_bytes(block) for block in content)
