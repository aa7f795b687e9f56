"""What Gemini's replies say: identity, tools, grounding, usage; and the meter of its streams.

A stream is server-sent events or one JSON array, and every piece carries the usage so far: the last report counts.
"""

import re
from collections.abc import Callable
from typing import Any, Final

import orjson

from data_plane.providers.counts import BadCount, context, count, details, fill_input, tier, within
from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.json_array import ArraySplitter
from data_plane.providers.json_text import salvage, text_bytes
from data_plane.providers.metering import EventMeter
from data_plane.providers.request_body import members
from shared.prices.usage import Metered, Usage, UsagePart

USAGE_KEY: Final = "usageMetadata"
_GENERATION: Final = re.compile(r"gemini-(\d+)")
_GENERATION_BY_QUERY: Final = 3
_OUTPUT_KEYS: Final = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
_TRAFFIC: Final = {"ON_DEMAND": "", "ON_DEMAND_PRIORITY": "priority", "ON_DEMAND_FLEX": "flex"}
_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    504: "DEADLINE_EXCEEDED",
}


class Grounding:
    """What replies were grounded in, as far as it is charged."""

    __slots__ = ("grounded", "queries")

    def __init__(self) -> None:
        self.queries: set[str] = set()
        self.grounded = False

    def add(self, metadata: dict[str, Any]) -> None:
        """Stored documents (file search) are not charged by query and are no grounding here."""
        for key in ("webSearchQueries", "imageSearchQueries"):
            queries = metadata.get(key)
            if isinstance(queries, list):
                self.queries.update(query for query in queries if isinstance(query, str) and query.strip())
        if self.queries or any("maps" in chunk for chunk in members(metadata.get("groundingChunks"))):
            self.grounded = True


class ContentMeter(EventMeter):
    """Reads `GenerateContentResponse` pieces."""

    _usage_key = USAGE_KEY
    __slots__ = ("_array", "_grounding", "_report")

    def __init__(self, facts: Facts, read_body: Callable[[bytes, bytes], Reading]) -> None:
        super().__init__(facts, read_body)
        self._array: ArraySplitter | None = None
        self._report: dict[str, Any] | None = None
        self._grounding = Grounding()

    def feed(self, chunk: bytes) -> bytes:
        if not self._started and chunk.lstrip()[:1] == b"[":
            self._started = True
            self._array = ArraySplitter()
        if self._array is None:
            return super().feed(chunk)
        for head, element in self._array.feed(chunk):
            if head:
                self._reading.output_bytes += len(element)
                self._document(salvage(head, element, USAGE_KEY) or {})
            else:
                self._payload("", element, complete=True)
        return chunk

    def _document(self, document: dict[str, Any]) -> None:
        reading = self._reading
        shown = read_reply(document, reading, self._grounding)
        if shown:
            reading.output_deltas += 1
            reading.output_bytes += shown
        report = document.get(USAGE_KEY)
        if isinstance(report, dict) and report:
            self._report = report
            reading.reasoning_hidden = False
            if type(report.get("candidatesTokenCount")) is int:
                reading.output_deltas = reading.output_bytes = 0

    def _settled(self) -> Reading:
        reading = self._reading
        if self._report is not None:
            reading.metered = metered(self._report, self._grounding, self._facts, reading)
        reading.final = reading.finished and reading.metered is not None
        return reading

    def _error_event(self, code: str, message: str) -> bytes:
        number = 504 if code.endswith("timeout") else 503 if code.startswith("upstream") else 429
        error = orjson.dumps({"error": {"code": number, "message": message, "status": status_name(number)}})
        if self._array is None:
            return b"data: " + error + b"\n\n"
        begin = b"" if self._array.opened else b"["
        return begin + (b"," if self._array.seen else b"") + error + b"]"


def status_name(http_status: int) -> str:
    return _STATUS.get(http_status, "INVALID_ARGUMENT" if http_status < 500 else "UNAVAILABLE")


def charged_by_reply(model: str) -> bool:
    """Whether a search costs one fee per grounded reply, as before generation 3, and not one per query."""
    generation = _GENERATION.search(model)
    return generation is not None and int(generation[1]) < _GENERATION_BY_QUERY


def read_reply(document: dict[str, Any], reading: Reading, grounding: Grounding) -> int:
    """Identity, end, tools and grounding, of a whole reply or a piece of one. Returns the bytes of output in it."""
    model, body_id = document.get("modelVersion"), document.get("responseId")
    if isinstance(model, str) and model:
        reading.model = model
    if isinstance(body_id, str) and body_id:
        reading.provider_request_id = body_id
    if document.get("error"):
        reading.error = True
    if "promptFeedback" in document:
        _ends(details(document, "promptFeedback").get("blockReason"), reading)
    shown = 0
    for candidate in members(document.get("candidates")):
        if "groundingMetadata" in candidate:
            grounding.add(details(candidate, "groundingMetadata"))
        if "finishReason" in candidate:
            _ends(candidate["finishReason"], reading)
        for part in members(details(candidate, "content").get("parts")):
            for key, value in part.items():
                if key == "functionCall" and isinstance(value, dict):
                    _calls(value, reading)
                if key != "thoughtSignature":
                    shown += text_bytes(value)
    return shown


def _ends(reason: Any, reading: Reading) -> None:
    if isinstance(reason, str) and reason and reason != "FINISH_REASON_UNSPECIFIED":
        reading.stop_reason = reason
        reading.finished = True


def _calls(call: dict[str, Any], reading: Reading) -> None:
    name, call_id = call.get("name"), call.get("id")
    if isinstance(name, str) and name:
        reading.tool_calls.append({"name": name, "id": call_id if isinstance(call_id, str) else ""})


def metered(report: dict[str, Any], grounding: Grounding, facts: Facts, reading: Reading) -> Metered | None:
    if all(report.get(key) is None for key in _OUTPUT_KEYS):
        return None
    try:
        usage = _usage(report, reading)
    except BadCount:
        reading.flag("no_usage")
        return None
    if grounding.grounded:
        if charged_by_reply(reading.model or facts.model):
            usage.grounded = 1
        else:
            usage.web_search = len(grounding.queries) or 1
    stated, traffic = report.get("serviceTier"), report.get("trafficType")
    service_tier = facts.context.service_tier
    if isinstance(stated, str):
        service_tier = tier(stated)
    elif isinstance(traffic, str):
        service_tier = _TRAFFIC.get(traffic, traffic.lower())
    return Metered([UsagePart(usage)], context(service_tier))


def _usage(report: dict[str, Any], reading: Reading) -> Usage:
    """Disjoint buckets. The prompt includes what was cached; thoughts and tool results stand beside."""
    prompt, tools = count(report, "promptTokenCount"), count(report, "toolUsePromptTokenCount")
    cached = within(count(report, "cachedContentTokenCount"), prompt, reading)
    answer, thoughts = count(report, "candidatesTokenCount"), count(report, "thoughtsTokenCount")
    inside = _modalities(report, "promptTokensDetails", prompt, reading)
    inside_cache = _modalities(report, "cacheTokensDetails", cached, reading)
    inside_tools = _modalities(report, "toolUsePromptTokensDetails", tools, reading)
    inside_answer = _modalities(report, "candidatesTokensDetails", answer, reading)
    fresh = {kind: max(0, inside[kind] - inside_cache[kind]) + inside_tools[kind] for kind in inside}
    audio_out, image_out, video_out = inside_answer["audio"], inside_answer["image"], inside_answer["video"]
    usage = Usage(
        input_audio=fresh["audio"],
        input_image=fresh["image"],
        input_video=fresh["video"],
        cache_read=cached - inside_cache["audio"] - inside_cache["image"],
        cache_read_audio=inside_cache["audio"],
        cache_read_image=inside_cache["image"],
        output=answer - audio_out - image_out - video_out + thoughts,
        output_audio=audio_out,
        output_image=image_out,
        output_video=video_out,
        reasoning=thoughts,
    )
    fill_input(usage, prompt + tools)
    return usage


def _modalities(report: dict[str, Any], key: str, total: int, reading: Reading) -> dict[str, int]:
    """Tokens by kind, together at most `total`; a document counts as an image, text is the rest."""
    found = {"audio": 0, "image": 0, "video": 0}
    for entry in members(report.get(key)):
        kind = entry.get("modality")
        name = "image" if kind == "DOCUMENT" else kind.lower() if isinstance(kind, str) else ""
        if name in found:
            found[name] += count(entry, "tokenCount")
    left = total
    for name, tokens in found.items():
        found[name] = within(tokens, left, reading)
        left -= found[name]
    return found
