"""Anthropic's messages, as JSON and as a stream: `input_tokens` is what was neither cached nor written to a cache."""

from typing import Final

import orjson

from deploy.demo.dialect import Ask, AskError, Json, Reply, last_text, sse, text_of
from deploy.demo.script import TokenUsage

_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Anthropic:
    name = "anthropic"
    request_id_header = "request-id"

    def ask(self, body: Json, headers: dict[str, str]) -> Ask:
        if "anthropic-version" not in headers:
            raise AskError("anthropic-version: header is required")
        model, messages, limit = body.get("model"), body.get("messages"), body.get("max_tokens")
        if not isinstance(model, str) or not model:
            raise AskError("model: Field required")
        if not isinstance(limit, int) or limit < 1:
            raise AskError("max_tokens: Field required")
        if not isinstance(messages, list) or not messages:
            raise AskError("messages: Field required")
        texts = [(m.get("role", ""), text_of(m.get("content"))) for m in messages if isinstance(m, dict)]
        return Ask(
            model=model,
            text_bytes=len(text_of(body.get("system")).encode()) + sum(len(text.encode()) for _, text in texts),
            last_user_text=last_text(texts, "user"),
            stream=body.get("stream") is True,
            output_limit=limit,
        )

    def reply_id(self, number: int) -> str:
        return _reply_id(number)

    def whole(self, reply: Reply) -> bytes:
        content = [{"type": "text", "text": reply.text}]
        document = _message(reply) | {"content": content, "stop_reason": _stop(reply)}
        if reply.tells_usage:
            document["usage"] = _usage(reply, reply.usage.output)
        return orjson.dumps(document)

    def stream_type(self, ask: Ask) -> str:  # noqa: ARG002  # one for all
        return "text/event-stream; charset=utf-8"

    def opening(self, reply: Reply) -> bytes:
        message = _message(reply)
        if reply.tells_usage:
            message["usage"] = _usage(reply, min(1, reply.usage.output))
        block = {"type": "text", "text": ""}
        return (
            _event({"type": "message_start", "message": message})
            + _event({"type": "content_block_start", "index": 0, "content_block": block})
            + _event({"type": "ping"})
        )

    def piece(self, reply: Reply, index: int) -> bytes:
        delta = {"type": "text_delta", "text": reply.pieces[index]}
        return _event({"type": "content_block_delta", "index": 0, "delta": delta}, padding=index % 11)

    def closing(self, reply: Reply) -> bytes:
        end: Json = {"type": "message_delta", "delta": {"stop_reason": _stop(reply), "stop_sequence": None}}
        if reply.tells_usage:
            counts = _counts(reply.usage, reply.usage.output)
            end["usage"] = counts | {"output_tokens_details": {"thinking_tokens": reply.usage.reasoning}}
        return (
            _event({"type": "content_block_stop", "index": 0}, padding=5)
            + _event(end, padding=3)
            + _event({"type": "message_stop"}, padding=8)
        )

    def refusal(self, status: int, message: str, *, usage: TokenUsage | None, stream: bool) -> bytes:  # noqa: ARG002
        document = _error(status, message) | {"request_id": "req_scripted"}
        if usage is not None:
            document["usage"] = _counts(usage, usage.output)
        return orjson.dumps(document)

    def interruption(self, reply: Reply, message: str) -> bytes:  # noqa: ARG002  # no ids in it
        return sse(_error(529, message), event="error")


def _reply_id(number: int) -> str:
    return f"msg_scripted{number:08d}"


def _event(document: Json, *, padding: int = 0) -> bytes:
    return sse(document, event=document["type"], padding=padding)


def _message(reply: Reply) -> Json:
    return {
        "model": reply.model,
        "id": _reply_id(reply.number),
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop(reply: Reply) -> str:
    return "max_tokens" if reply.limited else "end_turn"


def _counts(usage: TokenUsage, output_tokens: int) -> Json:
    return {
        "input_tokens": usage.uncached,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": output_tokens,
    }


def _usage(reply: Reply, output_tokens: int) -> Json:
    written = {
        "ephemeral_5m_input_tokens": reply.usage.cache_write_5m,
        "ephemeral_1h_input_tokens": reply.usage.cache_write_1h,
    }
    return _counts(reply.usage, output_tokens) | {
        "cache_creation": written,
        "service_tier": reply.script.service_tier or "standard",
        "inference_geo": "not_available",
    }


def _error(status: int, message: str) -> Json:
    kind = _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}
