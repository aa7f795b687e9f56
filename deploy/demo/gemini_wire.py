"""Gemini's generateContent, and streamGenerateContent as SSE and as a JSON array that grows."""

from typing import Final

import orjson

from deploy.demo.dialect import Ask, AskError, Json, Reply, last_text, sse, text_of
from deploy.demo.script import TokenUsage

_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Gemini:
    """Knows the target of its request: the model, whether to stream and how are in the URL."""

    name = "gemini"
    request_id_header = "x-request-id"

    def __init__(self, model: str, *, stream: bool, as_array: bool) -> None:
        self._model = model
        self._stream = stream
        self._as_array = as_array

    def ask(self, body: Json, headers: dict[str, str]) -> Ask:  # noqa: ARG002  # headers matter to Anthropic only
        contents = body.get("contents")
        contents = [contents] if isinstance(contents, dict) else contents
        if not isinstance(contents, list) or not contents:
            raise AskError("* GenerateContentRequest.contents: contents is not specified")
        texts = [(c.get("role", "user"), text_of(c.get("parts"))) for c in contents if isinstance(c, dict)]
        system = body.get("systemInstruction", body.get("system_instruction"))
        system_text = text_of(system.get("parts")) if isinstance(system, dict) else ""
        config = body.get("generationConfig", body.get("generation_config"))
        config = config if isinstance(config, dict) else {}
        limit = config.get("maxOutputTokens", config.get("max_output_tokens"))
        return Ask(
            model=self._model,
            text_bytes=len(system_text.encode()) + sum(len(text.encode()) for _, text in texts),
            last_user_text=last_text(texts, "user"),
            stream=self._stream,
            output_limit=limit if isinstance(limit, int) else None,
            as_array=self._as_array,
            tells_cache_writes=False,
        )

    def reply_id(self, number: int) -> str:
        return _reply_id(number)

    def whole(self, reply: Reply) -> bytes:
        document = _document(reply, reply.text, _finish(reply), reply.usage)
        return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"

    def stream_type(self, ask: Ask) -> str:
        return "application/json; charset=UTF-8" if ask.as_array else "text/event-stream"

    def opening(self, reply: Reply) -> bytes:
        return b"[" if reply.ask.as_array else b""

    def piece(self, reply: Reply, index: int) -> bytes:
        # Counts are cumulative; hidden thinking is over before the first word.
        output = reply.usage.reasoning + reply.usage.visible * (index + 1) // len(reply.pieces)
        so_far = TokenUsage(reply.usage.input, output, reply.usage.cached, reasoning=reply.usage.reasoning)
        return _element(reply, _document(reply, reply.pieces[index], None, so_far), first=index == 0)

    def closing(self, reply: Reply) -> bytes:
        last = _document(reply, "", _finish(reply), reply.usage)
        return _element(reply, last, first=not reply.pieces) + (b"\n]\n" if reply.ask.as_array else b"")

    def refusal(self, status: int, message: str, *, usage: TokenUsage | None, stream: bool) -> bytes:
        document: Json = {"error": _error(status, message)}
        if usage is not None:
            document["usageMetadata"] = _usage(usage, None)
        as_array = stream and self._as_array
        return orjson.dumps([document] if as_array else document, option=orjson.OPT_INDENT_2) + b"\n"

    def interruption(self, reply: Reply, message: str) -> bytes:
        document = {"error": _error(503, message)}
        first = reply.script.fault is not None and reply.script.fault.after_chunks == 0
        return _element(reply, document, first=first) + (b"\n]\n" if reply.ask.as_array else b"")


def _reply_id(number: int) -> str:
    return f"scripted{number:08d}"


def _element(reply: Reply, document: Json, *, first: bool) -> bytes:
    if not reply.ask.as_array:
        return sse(document, line_end=b"\r\n")
    return (b"" if first else b"\n,\r\n") + orjson.dumps(document, option=orjson.OPT_INDENT_2)


def _document(reply: Reply, text: str, finish_reason: str | None, usage: TokenUsage) -> Json:
    candidate: Json = {"content": {"parts": [{"text": text}], "role": "model"}}
    if finish_reason is not None:
        candidate["finishReason"] = finish_reason
    document: Json = {"candidates": [candidate | {"index": 0}]}
    if reply.tells_usage:
        document["usageMetadata"] = _usage(usage, reply.script.service_tier)
    return document | {"modelVersion": reply.model, "responseId": _reply_id(reply.number)}


def _finish(reply: Reply) -> str:
    return "MAX_TOKENS" if reply.limited else "STOP"


def _usage(usage: TokenUsage, service_tier: str | None) -> Json:
    document: Json = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": usage.visible,
        "totalTokenCount": usage.input + usage.output,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}],
    }
    if usage.cached:
        document["cachedContentTokenCount"] = usage.cached
        document["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": usage.cached}]
    if usage.reasoning:
        document["thoughtsTokenCount"] = usage.reasoning
    if service_tier is not None:
        document["serviceTier"] = service_tier
    return document


def _error(status: int, message: str) -> Json:
    code = _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return {"code": status, "message": message, "status": code}
