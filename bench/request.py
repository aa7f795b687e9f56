"""The bytes that the load generator repeats: one chat completion request of a given size."""

import json
from typing import Final

MODEL: Final = "gpt-4o-mini"
_WORDS: Final = "measure twice and cut once "


def body(size: int, *, stream: bool) -> bytes:
    """JSON of exactly `size` bytes. Raises ValueError when that is too few."""
    document = {
        "model": MODEL,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
        "max_tokens": 64,
        "messages": [{"role": "system", "content": "You are brief."}, {"role": "user", "content": ""}],
    }
    empty = json.dumps(document, separators=(",", ":"))
    missing = size - len(empty)
    if missing < 1:
        raise ValueError(f"a body has at least {len(empty) + 1} bytes")
    document["messages"][1]["content"] = (_WORDS * (missing // len(_WORDS) + 1))[:missing]  # type: ignore[index]
    return json.dumps(document, separators=(",", ":")).encode()


def request(content: bytes, headers: dict[str, str]) -> bytes:
    """A POST whose start says whether it asks for a stream, as the mock provider expects."""
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        "Accept: application/json",
        "User-Agent: bench",
        "Authorization: Bearer sk-bench",
        *(f"{name}: {value}" for name, value in headers.items()),
        f"Content-Length: {len(content)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content
