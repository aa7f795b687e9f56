"""What the three wire formats have in common: what was asked, the reply a script makes of it, and how it is spelled."""

from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from deploy.demo.script import BYTES_PER_TOKEN, Script, ScriptError, TokenUsage, reply_text

CHUNKS: Final = 10

Json = dict[str, Any]


class AskError(ValueError):
    """A request the provider itself would refuse with a 400."""


@dataclass(frozen=True, slots=True)
class Ask:
    model: str
    text_bytes: int
    """UTF-8 bytes of every message, system text included; the default input is derived from it."""
    last_user_text: str
    stream: bool = False
    output_limit: int | None = None
    usage_wanted: bool = True
    """OpenAI reports the usage of a stream only when asked to."""
    obfuscated: bool = True
    tells_cache_writes: bool = True
    as_array: bool = False
    """Gemini streams a JSON array unless SSE is asked for."""


@dataclass(frozen=True, slots=True)
class Reply:
    number: int
    created: int
    ask: Ask
    script: Script
    usage: TokenUsage
    pieces: tuple[str, ...]
    limited: bool
    """The text was cut to the caller's output limit."""

    @property
    def model(self) -> str:
        return self.script.model or self.ask.model

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def status(self) -> int:
        return self.script.status or (500 if self.script.fails("usage_in_error") else 200)

    @property
    def refused(self) -> bool:
        return self.status >= 400

    @property
    def tells_usage(self) -> bool:
        """Whether the client is told, unless it is a stream that ends early."""
        silenced = self.script.fails("no_usage") or self.script.fails("unparsable")
        return not silenced and (self.ask.usage_wanted or not self.ask.stream)


class Dialect(Protocol):
    """One provider's spelling. Every method is pure; bytes are what goes into the body of the reply."""

    name: str
    request_id_header: str

    def ask(self, body: Json, headers: dict[str, str]) -> Ask:
        """Raises AskError for what the provider refuses."""
        ...

    def reply_id(self, number: int) -> str: ...

    def whole(self, reply: Reply) -> bytes: ...

    def stream_type(self, ask: Ask) -> str: ...

    def opening(self, reply: Reply) -> bytes:
        """What a stream sends before its first piece of text."""
        ...

    def piece(self, reply: Reply, index: int) -> bytes: ...

    def closing(self, reply: Reply) -> bytes:
        """What a stream sends after its last piece of text, with the usage when the reply tells it."""
        ...

    def refusal(self, status: int, message: str, *, usage: TokenUsage | None, stream: bool) -> bytes: ...

    def interruption(self, reply: Reply, message: str) -> bytes:
        """An error event in a stream that has begun, and the end of it."""
        ...


def resolve(ask: Ask, script: Script, *, number: int, created: int) -> Reply:
    """The reply that `script` asks for; what it leaves open follows from the request alone."""
    text = reply_text(script, None if script.output is None else script.output - script.reasoning)
    limited = False
    if script.output is None:
        output = script.reasoning + -(-len(text.encode()) // BYTES_PER_TOKEN)
        if ask.output_limit is not None and output > ask.output_limit:
            output, limited = max(ask.output_limit, script.reasoning), True
            text = text[: (output - script.reasoning) * BYTES_PER_TOKEN]
    else:
        output = script.output
    usage = TokenUsage(
        input=max(1, -(-ask.text_bytes // BYTES_PER_TOKEN)) if script.input is None else script.input,
        output=output,
        cached=script.cached,
        cache_write_5m=script.cache_write_5m,
        cache_write_1h=script.cache_write_1h,
        reasoning=script.reasoning,
    )
    pieces = _split(text, min(CHUNKS, len(text)) if script.chunks is None else script.chunks)
    reply = Reply(number=number, created=created, ask=ask, script=script, usage=usage, pieces=pieces, limited=limited)
    _check(reply)
    return reply


def _check(reply: Reply) -> None:
    usage, fault = reply.usage, reply.script.fault
    if usage.uncached < 0:
        raise ScriptError("'in' is a total: it is at least what is cached and written to the cache")
    if usage.cache_write and not reply.ask.tells_cache_writes:
        raise ScriptError("this provider reports no cache writes")
    if usage.visible < 0:
        raise ScriptError("'out' is a total: it is at least what is 'reasoning'")
    if fault is None:
        return
    if fault.after_chunks > len(reply.pieces) - (not reply.ask.stream):
        raise ScriptError(f"{fault.kind} comes after the end: there are {len(reply.pieces)} chunks")
    if fault.kind == "error_after_chunks" and not reply.ask.stream:
        raise ScriptError("only a stream can fail after chunks: use 'status'")
    if fault.kind == "usage_in_error" and not reply.refused:
        raise ScriptError("usage_in_error needs a 'status' of at least 400, or none")


def _split(text: str, count: int) -> tuple[str, ...]:
    """Exactly `count` pieces, none of them empty."""
    if count > len(text) or (count == 0 and text):
        raise ScriptError(f"a text of {len(text)} characters cannot be sent in {count} chunks")
    return tuple(text[len(text) * i // count : len(text) * (i + 1) // count] for i in range(count))


def text_of(content: object) -> str:
    """The text of a message: a string, or the text parts of a list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def last_text(texts: list[tuple[str, str]], role: str) -> str:
    """Of (role, text) pairs, the last text said by `role`."""
    return next((text for who, text in reversed(texts) if who == role), "")


def sse(document: Json, *, event: str | None = None, padding: int = 0, line_end: bytes = b"\n") -> bytes:
    """One event as the providers spell it; Anthropic pads its lines with blanks."""
    head = b"" if event is None else b"event: " + event.encode() + line_end
    return head + b"data: " + orjson.dumps(document) + b" " * padding + line_end * 2
