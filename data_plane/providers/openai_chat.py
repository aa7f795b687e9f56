"""OpenAI chat completions, and the many upstreams that speak the same: request, JSON reply and our error.

Not here: the stream (`openai_stream`).
"""

import re
from typing import Any, Final

from data_plane.providers.counts import context, details, tier
from data_plane.providers.dialect import Facts, Reading, StreamMeter, UsageSwitch
from data_plane.providers.json_text import text_bytes, value_start
from data_plane.providers.metering import BodyMeter, read_document
from data_plane.providers.openai_stream import ChatMeter, RestoringMeter
from data_plane.providers.openai_usage import identify, metered, tool_calls
from data_plane.providers.request_body import (
    CANDIDATES_MAX,
    TOKENS_MAX,
    USES_UNBOUNDED,
    Watch,
    flag,
    members,
    model_name,
    read_object,
    whole_number,
    word,
)

NAME: Final = "openai.chat"
MODIFIED: Final = "stream_options"

_WATCH: Final = Watch(
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "modalities",
    "model",
    "n",
    "reasoning_effort",
    "service_tier",
    "stream",
    "stream_options",
    "tools",
    "web_search_options",
)  # fmt: skip
_REASONS_UNSEEN: Final = re.compile(r"(?:.*/)?(?:o\d|gpt-(?:[5-9]|\d\d))(?!.*-chat)")
_MEDIA: Final = {
    "image_url": ("image", "url"),
    "video_url": ("video", "url"),
    "input_audio": ("audio", "data"),
    "file": ("document", "file_data"),
    "document_url": ("document", "url"),
}
"""Part type: kind, and where its content stands, unless the part holds it bare as Mistral's do."""
TOOLS_PROMPT_TOKENS: Final = 700
"""What some upstreams add to the prompt when there are tools."""
RESULT_TOKENS: Final = 10_000
"""What a search comes back with, read as input within the same call."""


class OpenAIChat:
    """The dialect `openai.chat`."""

    name = NAME

    def facts(self, body: bytes, path_model: str | None = None, streaming_path: bool | None = None) -> Facts:
        request = read_object(body, _WATCH)
        model = model_name(request.get("model") if path_model is None else path_model)
        stream = flag(request.get("stream"), "stream") if streaming_path is None else streaming_path
        caps = [
            cap
            for field in ("max_completion_tokens", "max_tokens")
            if (cap := whole_number(request.get(field), field, TOKENS_MAX)) is not None
        ]
        modalities = request.get("modalities")
        facts = Facts(
            model=model,
            stream=stream,
            # Upstreams differ in which of the two they obey, so the hold covers the larger.
            output_tokens_max=max(caps, default=None),
            candidates=whole_number(request.get("n"), "n", CANDIDATES_MAX) or 1,
            input_bytes=len(body),
            context=context(tier(request.get("service_tier"))),
            reasoning_hidden=_REASONS_UNSEEN.match(model) is not None
            and word(request.get("reasoning_effort")) != "none",
            audio_output=isinstance(modalities, list) and "audio" in modalities,
            usage_switch=_usage_switch(request) if stream else "",
        )
        _add_media(request.get("messages"), facts)
        _add_tools(request, facts)
        return facts

    def prepare(self, body: bytes, facts: Facts) -> tuple[bytes, str | None]:
        """Asks for usage in the stream where the caller left it open. Textual: no other byte changes."""
        switch = facts.usage_switch
        if not switch:
            return body, None
        if switch == "absent":
            end = body.rindex(b"}")
            return body[:end] + b',"stream_options":{"include_usage":true}' + body[end:], MODIFIED
        at = value_start(body, "stream_options")
        if at is None:
            return body, None
        if switch == "null":
            return body[:at] + b'{"include_usage":true}' + body[at + 4 :], MODIFIED
        inside = body[at + 1 :]
        comma = b"" if inside.lstrip().startswith(b"}") else b","
        return body[: at + 1] + b'"include_usage":true' + comma + inside, MODIFIED

    def read_json(self, body: bytes, facts: Facts) -> Reading:
        return self._read(b"", body, facts)

    def _read(self, head: bytes, body: bytes, facts: Facts) -> Reading:
        return read_document(head, body, "usage", lambda document, reading: _reply(document, facts, reading))

    def meter(self, facts: Facts, *, restore: bool = False) -> StreamMeter:
        def read(head: bytes, body: bytes) -> Reading:
            return self._read(head, body, facts)

        if not facts.stream:
            return BodyMeter(read)
        return RestoringMeter(facts, read) if restore else ChatMeter(facts, read)

    def denial(self, envelope: dict[str, Any], status: int) -> dict[str, Any]:  # noqa: ARG002 - others need it
        return envelope


def _usage_switch(request: dict[str, Any]) -> UsageSwitch:
    if "stream_options" not in request:
        return "absent"
    options = request["stream_options"]
    if options is None:
        return "null"
    if isinstance(options, dict) and "include_usage" not in options:
        return "object"
    return ""


def _add_media(messages: Any, facts: Facts) -> None:
    for message in members(messages):
        for part in members(message.get("content")):
            shape = word(part.get("type"))
            if shape not in _MEDIA:
                continue
            kind, key = _MEDIA[shape]
            carrier = part.get(shape)
            original = False
            if isinstance(carrier, dict):
                original = carrier.get("detail") == "original"
                carrier = carrier.get(key)
            if key == "url" and not (isinstance(carrier, str) and carrier.startswith("data:")):
                carrier = None
            # An original is cut into as many patches as three of the largest scaled images.
            facts.add_media(kind, carrier, count=3 if original else 1)


def _add_tools(request: dict[str, Any], facts: Facts) -> None:
    """Fees, further models and the prompt that tools bring with them."""
    tools = members(request.get("tools"))
    searches = 0 if request.get("web_search_options") is None else 1  # search models search once
    for tool in tools:
        kind = word(tool.get("type"))
        if "web_search" in kind:
            searches += USES_UNBOUNDED
        model = details(tool, "parameters").get("model") if kind.endswith("advisor") else None
        if isinstance(model, str) and model:
            facts.sub_models += (model,)
    if tools:
        facts.provider_prompt_tokens += TOOLS_PROMPT_TOKENS
    if searches:
        facts.provider_prompt_tokens += RESULT_TOKENS
        facts.fees["web_search"] = searches


def _reply(document: dict[str, Any], facts: Facts, reading: Reading) -> None:
    identify(document, reading)
    reading.error = bool(document.get("error"))
    tool_calls(document, "message", reading)
    reading.metered = metered(document, facts, reading)
    if reading.metered is not None:
        reading.final = True
        return
    choices = members(document.get("choices"))
    reading.output_bytes += sum(
        text_bytes(choice.get("message")) + text_bytes(choice.get("text")) for choice in choices
    )
