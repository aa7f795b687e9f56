"""OpenAI's chat completions, as JSON and as a stream, and its list of models."""

from typing import Final

import orjson

from deploy.demo.dialect import Ask, AskError, Json, Reply, last_text, sse, text_of
from deploy.demo.script import TokenUsage

MODELS: Final = ("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-5-mini", "gpt-5")
_OBFUSCATION: Final = "c2NyaXB0ZWQtcmVwbHk"
_ERRORS: Final = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


class OpenAI:
    name = "openai"
    request_id_header = "x-request-id"

    def ask(self, body: Json, headers: dict[str, str]) -> Ask:  # noqa: ARG002  # headers matter to Anthropic only
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise AskError("you must provide a model parameter")
        if not isinstance(messages, list) or not messages:
            raise AskError("Missing required parameter: 'messages'.")
        texts = [(m.get("role", ""), text_of(m.get("content"))) for m in messages if isinstance(m, dict)]
        options = body.get("stream_options")
        options = options if isinstance(options, dict) else {}
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        return Ask(
            model=model,
            text_bytes=sum(len(text.encode()) for _, text in texts),
            last_user_text=last_text(texts, "user"),
            stream=body.get("stream") is True,
            output_limit=limit if isinstance(limit, int) else None,
            usage_wanted=options.get("include_usage") is True,
            obfuscated=options.get("include_obfuscation") is not False,
        )

    def reply_id(self, number: int) -> str:
        return _reply_id(number)

    def whole(self, reply: Reply) -> bytes:
        message: Json = {"role": "assistant", "content": reply.text, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
        document = _head(reply, "chat.completion") | {"choices": [choice]}
        if reply.tells_usage:
            document["usage"] = _usage(reply.usage)
        return orjson.dumps(document | _tail(reply))

    def stream_type(self, ask: Ask) -> str:  # noqa: ARG002  # one for all
        return "text/event-stream; charset=utf-8"

    def opening(self, reply: Reply) -> bytes:
        return _chunk(reply, {"role": "assistant", "content": "", "refusal": None})

    def piece(self, reply: Reply, index: int) -> bytes:
        return _chunk(reply, {"content": reply.pieces[index]})

    def closing(self, reply: Reply) -> bytes:
        usage = b""
        if reply.tells_usage:
            document = _head(reply, "chat.completion.chunk") | _tail(reply)
            usage = sse(document | {"choices": [], "usage": _usage(reply.usage)} | _obfuscation(reply))
        return _chunk(reply, {}, _finish(reply)) + usage + b"data: [DONE]\n\n"

    def refusal(self, status: int, message: str, *, usage: TokenUsage | None, stream: bool) -> bytes:  # noqa: ARG002
        document: Json = {"error": _error(status, message)}
        if usage is not None:
            document["usage"] = _usage(usage)
        return orjson.dumps(document, option=orjson.OPT_INDENT_2)

    def interruption(self, reply: Reply, message: str) -> bytes:  # noqa: ARG002  # no ids in it
        return sse({"error": _error(500, message)})


def models(created: int) -> bytes:
    listed = [{"id": name, "object": "model", "created": created, "owned_by": "scripted"} for name in MODELS]
    return orjson.dumps({"object": "list", "data": listed})


def _reply_id(number: int) -> str:
    return f"chatcmpl-scripted{number:08d}"


def _chunk(reply: Reply, delta: Json, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    document = _head(reply, "chat.completion.chunk") | _tail(reply) | {"choices": [choice]}
    if reply.tells_usage:
        document["usage"] = None
    return sse(document | _obfuscation(reply))


def _head(reply: Reply, kind: str) -> Json:
    return {
        "id": _reply_id(reply.number),
        "object": kind,
        "created": reply.created,
        "model": reply.model,
    }


def _tail(reply: Reply) -> Json:
    return {"service_tier": reply.script.service_tier or "default", "system_fingerprint": "fp_scripted"}


def _obfuscation(reply: Reply) -> Json:
    return {"obfuscation": _OBFUSCATION[reply.number % 8 :]} if reply.ask.obfuscated else {}


def _finish(reply: Reply) -> str:
    return "length" if reply.limited else "stop"


def _usage(usage: TokenUsage) -> Json:
    details = {"cached_tokens": usage.cached, "audio_tokens": 0}
    if usage.cache_write:
        details["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _error(status: int, message: str) -> Json:
    kind, code = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return {"message": message, "type": kind, "param": None, "code": code}
