"""Google's `generateContent` and `streamGenerateContent`: request, JSON reply and our error.

Requests spell every field in camelCase or in snake_case, as the provider's JSON reader allows.
"""

from typing import Any, Final

from data_plane.providers.counts import context, details, tier
from data_plane.providers.dialect import Facts, Reading, StreamMeter
from data_plane.providers.gemini_stream import (
    USAGE_KEY,
    ContentMeter,
    Grounding,
    charged_by_reply,
    metered,
    read_reply,
    status_name,
)
from data_plane.providers.metering import BodyMeter, read_document
from data_plane.providers.request_body import (
    CANDIDATES_MAX,
    TOKENS_MAX,
    USES_UNBOUNDED,
    Watch,
    ambiguous,
    members,
    model_name,
    read_object,
    whole_number,
    word,
)

NAME: Final = "gemini"
RESULT_TOKENS: Final = 10_000
"""What a hosted tool's results may add to the input of the same call."""

_SNAKE: Final = {
    "cachedContent": "cached_content",
    "candidateCount": "candidate_count",
    "fileData": "file_data",
    "functionResponse": "function_response",
    "generationConfig": "generation_config",
    "inlineData": "inline_data",
    "maxOutputTokens": "max_output_tokens",
    "mimeType": "mime_type",
    "responseModalities": "response_modalities",
    "serviceTier": "service_tier",
    "thinkingBudget": "thinking_budget",
    "thinkingConfig": "thinking_config",
}
_TOP: Final = ("cachedContent", "generationConfig", "serviceTier")
_CONFIG: Final = ("candidateCount", "maxOutputTokens", "responseModalities", "thinkingConfig")
_WATCH: Final = Watch(
    "contents",
    "tools",
    *(name for key in _TOP for name in (key, _SNAKE[key])),
    *(
        f"{outer}.{name}"
        for outer in ("generationConfig", "generation_config")
        for key in _CONFIG
        for name in (key, _SNAKE[key])
    ),
)
_SEARCHES: Final = frozenset({"googlesearch", "googlesearchretrieval", "googlemaps", "enterprisewebsearch"})
_READERS: Final = frozenset({*_SEARCHES, "urlcontext", "filesearch", "retrieval", "codeexecution"})


class Gemini:
    """The dialect `gemini`."""

    name = NAME

    def facts(self, body: bytes, path_model: str | None = None, streaming_path: bool | None = None) -> Facts:
        request = read_object(body, _WATCH)
        model = model_name(path_model).removeprefix("models/")
        config = _pick(request, "generationConfig")
        config = config if isinstance(config, dict) else {}
        thinking = _pick(config, "thinkingConfig")
        budget = _pick(thinking, "thinkingBudget") if isinstance(thinking, dict) else None
        modalities = _pick(config, "responseModalities")
        facts = Facts(
            model=model,
            stream=bool(streaming_path),
            output_tokens_max=whole_number(
                _pick(config, "maxOutputTokens"), "generationConfig.maxOutputTokens", TOKENS_MAX
            ),
            candidates=whole_number(_pick(config, "candidateCount"), "generationConfig.candidateCount", CANDIDATES_MAX)
            or 1,
            input_bytes=len(body),
            context=context(tier(_pick(request, "serviceTier"))),
            server_context=_pick(request, "cachedContent") is not None,
            reasoning_hidden=budget != 0,
            audio_output=isinstance(modalities, list) and any(word(entry) == "audio" for entry in modalities),
        )
        for content in members(request.get("contents")):
            _add_media(content.get("parts"), facts)
        _add_tools(request, facts)
        return facts

    def prepare(self, body: bytes, facts: Facts) -> tuple[bytes, str | None]:  # noqa: ARG002 - usage always comes
        return body, None

    def read_json(self, body: bytes, facts: Facts) -> Reading:
        return self._read(b"", body, facts)

    def _read(self, head: bytes, body: bytes, facts: Facts) -> Reading:
        return read_document(head, body, USAGE_KEY, lambda document, reading: _reply(document, facts, reading))

    def meter(self, facts: Facts, *, restore: bool = False) -> StreamMeter:  # noqa: ARG002 - nothing to restore
        def read(head: bytes, body: bytes) -> Reading:
            return self._read(head, body, facts)

        return ContentMeter(facts, read) if facts.stream else BodyMeter(read)

    def denial(self, envelope: dict[str, Any], status: int) -> dict[str, Any]:
        """In Google's words: its clients read a number as the code, and show the name of the status."""
        return {**envelope, "error": {**envelope["error"], "code": status, "status": status_name(status)}}


def _pick(where: dict[str, Any], key: str) -> Any:
    """A field in either spelling. Both at once is refused: which one counts is the provider's secret."""
    snake = _SNAKE[key]
    if snake not in where:
        return where.get(key)
    if key in where:
        raise ambiguous(key)
    return where[snake]


def _add_media(parts: Any, facts: Facts) -> None:
    """Counts the media parts, those in function responses too."""
    for part in members(parts):
        response = _pick(part, "functionResponse")
        if isinstance(response, dict):
            _add_media(response.get("parts"), facts)
        inline, stored = _pick(part, "inlineData"), _pick(part, "fileData")
        if isinstance(inline, dict):
            kind = _kind(word(_pick(inline, "mimeType")))
            if kind:  # inline text is counted by its bytes
                facts.add_media(kind, inline.get("data"))
        if isinstance(stored, dict):
            facts.add_media(_kind(word(_pick(stored, "mimeType"))) or "file", None)


def _kind(mime: str) -> str | None:
    """The kind of media; None for text."""
    major = mime.partition("/")[0]
    if major in {"image", "audio", "video"}:
        return major
    if mime == "application/pdf":
        return "document"
    return None if major == "text" else "file"


def _add_tools(request: dict[str, Any], facts: Facts) -> None:
    """Fees of searches, charged by reply before generation 3 and by query since, and the input that results bring."""
    names = {key.replace("_", "").lower() for tool in members(request.get("tools")) for key in tool}
    if names & _READERS:
        facts.provider_prompt_tokens = RESULT_TOKENS
    if names & _SEARCHES:
        facts.fees = {"grounded": 1} if charged_by_reply(facts.model) else {"web_search": USES_UNBOUNDED}


def _reply(document: dict[str, Any], facts: Facts, reading: Reading) -> None:
    grounding = Grounding()
    shown = read_reply(document, reading, grounding)
    report = details(document, USAGE_KEY)
    if report:
        reading.metered = metered(report, grounding, facts, reading)
    reading.final = reading.metered is not None
    if not reading.final:
        reading.output_bytes += shown
