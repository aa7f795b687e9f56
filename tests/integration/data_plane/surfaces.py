"""The provider surfaces of the tests: how each is called, what a reply of it looks like, and what that costs."""

from dataclasses import dataclass
from typing import Any, Final

import orjson

USAGE_IN: Final = 1000
USAGE_OUT: Final = 500


@dataclass(frozen=True, slots=True)
class Surface:
    """Rates are microdollars per thousand tokens, as the providers publish them."""

    name: str
    provider: str
    model: str
    rate_in: int
    rate_out: int
    path: str
    stream_path: str
    reply: bytes
    pieces: tuple[bytes, ...]
    """A stream: three pieces of text, then the usage, then what ends it."""
    credential: tuple[str, str]

    def body(self, *, stream: bool = False, cap: Any = 600, **more: Any) -> bytes:
        """A request. `cap` is the output limit as JSON value, None for no limit."""
        document: dict[str, Any]
        if self.name == "gemini":
            document = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}
            if cap is not None:
                document["generationConfig"] = {"maxOutputTokens": cap}
        else:
            document = {"model": self.model, "messages": [{"role": "user", "content": "hello"}]}
            if cap is not None:
                document["max_tokens"] = cap
            if stream:
                document["stream"] = True
        return orjson.dumps({**document, **more})

    def target(self, *, stream: bool = False, model: str | None = None) -> str:
        path = self.stream_path if stream else self.path
        return path if model is None else path.replace(self.model, model)

    def price(self, tokens_in: int, tokens_out: int) -> int:
        """Half up, as a cost is rounded."""
        return (tokens_in * self.rate_in + tokens_out * self.rate_out + 500) // 1000

    @property
    def cost(self) -> int:
        """Of the reply, and of the whole stream."""
        return self.price(USAGE_IN, USAGE_OUT)

    def hold(self, body: bytes, cap: int = 600) -> int:
        """What is held for a call: a token for every two bytes, the whole cap, rounded up."""
        return -(-(-(-len(body) // 2) * self.rate_in + cap * self.rate_out) // 1000)

    @property
    def cap_field(self) -> str:
        return "maxOutputTokens" if self.name == "gemini" else "max_tokens"

    def capped(self, spelling: bytes) -> bytes:
        """A request whose output limit is spelled like this."""
        return self.body(cap=987_654).replace(b"987654", spelling)


def _sse(*documents: dict[str, Any], event: bool = False) -> tuple[bytes, ...]:
    return tuple(
        (b"event: " + document["type"].encode() + b"\n" if event else b"")
        + b"data: "
        + orjson.dumps(document)
        + b"\n\n"
        for document in documents
    )


def _openai() -> Surface:
    usage = {"prompt_tokens": USAGE_IN, "completion_tokens": USAGE_OUT, "total_tokens": USAGE_IN + USAGE_OUT}
    message = {"role": "assistant", "content": "hi"}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o-2024-08-06"}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
    texts = [
        {**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in ("one ", "two ", "three")
    ]
    stop = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    last = {**head, "choices": [], "usage": usage}
    return Surface(
        name="openai",
        provider="openai",
        model="gpt-4o",
        rate_in=2_500,
        rate_out=10_000,
        path="/v1/chat/completions",
        stream_path="/v1/chat/completions",
        reply=orjson.dumps(
            {**reply, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        ),
        pieces=(*_sse(*({**chunk, "usage": None} for chunk in (*texts, stop))), *_sse(last), b"data: [DONE]\n\n"),
        credential=("Authorization", "Bearer sk-provider"),
    )


def _anthropic() -> Surface:
    usage = {"input_tokens": USAGE_IN, "output_tokens": USAGE_OUT}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929"}
    reply = {**message, "content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": usage}
    start: dict[str, Any] = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    texts = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        for text in ("one ", "two ", "three")
    ]
    pieces = _sse(
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *texts,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": USAGE_OUT}},
        {"type": "message_stop"},
        event=True,
    )
    return Surface(
        name="anthropic",
        provider="anthropic",
        model="claude-sonnet-4-5",
        rate_in=3_000,
        rate_out=15_000,
        path="/v1/messages",
        stream_path="/v1/messages",
        reply=orjson.dumps(reply),
        pieces=pieces,
        credential=("x-api-key", "sk-ant-provider"),
    )


def _gemini() -> Surface:
    def piece(text: str, out: int, **more: Any) -> dict[str, Any]:
        usage = {"promptTokenCount": USAGE_IN, "candidatesTokenCount": out, "totalTokenCount": USAGE_IN + out}
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0, **more}
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": "gemini-2.5-flash",
            "responseId": "r1",
        }

    model = "/v1beta/models/gemini-2.5-flash"
    last = piece("three", USAGE_OUT, finishReason="STOP")
    return Surface(
        name="gemini",
        provider="google",
        model="gemini-2.5-flash",
        rate_in=300,
        rate_out=2_500,
        path=f"{model}:generateContent",
        stream_path=f"{model}:streamGenerateContent?alt=sse",
        reply=orjson.dumps(last),
        pieces=_sse(piece("one ", 2), piece("two ", 4), last),
        credential=("x-goog-api-key", "AIza-provider"),
    )


OPENAI: Final = _openai()
ANTHROPIC: Final = _anthropic()
GEMINI: Final = _gemini()
SURFACES: Final = (OPENAI, ANTHROPIC, GEMINI)
