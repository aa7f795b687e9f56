"""Which surface a request is for, from method and path alone. Pure.

The path is matched decoded and forwarded raw. What is not listed here does not exist.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from shared.errors import RequestRefusal

DialectName = Literal["openai.chat", "anthropic", "gemini"]


@dataclass(frozen=True, slots=True)
class Route:
    """A metered provider surface. `model` and `streaming` are set where the path says them."""

    provider: str
    dialect: DialectName
    surface: str
    model: str | None = None
    streaming: bool | None = None


@dataclass(frozen=True, slots=True)
class Own:
    """An endpoint of ours."""

    name: Literal["health", "ready", "metrics"]


_OWN: Final = {b"/health": Own("health"), b"/health/ready": Own("ready"), b"/metrics": Own("metrics")}
_FIXED: Final = {
    b"/v1/chat/completions": Route("openai", "openai.chat", "chat.completions"),
    b"/v1/messages": Route("anthropic", "anthropic", "messages"),
}
_GEMINI: Final = re.compile(r"/v1(?:beta)?/models/([^/:]{1,200}):(generateContent|streamGenerateContent)")
_HINTS: Final = {
    b"/chat/completions": "The base URL of the OpenAI client must end in /v1.",
    b"/messages": "The base URL of the Anthropic client is this server's root, and the path /v1/messages.",
}


def resolve(method: bytes, path: bytes) -> Route | Own:
    """The route of a request. Raises RequestRefusal: 404 `not_found`, 400 `bad_request` for a hostile path."""
    if method == b"POST":
        route = _FIXED.get(path)
        if route is not None:
            return route
    elif method == b"GET":
        own = _OWN.get(path)
        if own is not None:
            return own
    decoded = _decoded(path)
    if method == b"POST":
        # The SDKs append /v1 themselves: a base URL that already ends in it doubles the segment.
        route = _FIXED.get(decoded.replace("/v1/v1/", "/v1/", 1).encode())
        if route is not None:
            return route
        match = _GEMINI.fullmatch(decoded)
        if match is not None:
            model, verb = match.groups()
            streaming = verb == "streamGenerateContent"
            return Route("google", "gemini", "generate_content", model, streaming)
    raise RequestRefusal(404, "not_found", _not_found(method, path))


def _decoded(path: bytes) -> str:
    """The path percent-decoded. Traversal and anything that two parsers could read differently is refused."""
    try:
        decoded = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise RequestRefusal(400, "bad_request", "The path is not UTF-8.") from None
    segments = decoded.split("/")
    if not decoded.startswith("/") or "//" in decoded or "." in segments or ".." in segments or "\0" in decoded:
        raise RequestRefusal(400, "bad_request", "The path must be absolute and free of empty, . and .. segments.")
    if b"%2f" in path.lower():
        raise RequestRefusal(400, "bad_request", "An encoded slash cannot be routed.")
    return decoded


def _not_found(method: bytes, path: bytes) -> str:
    hint = _HINTS.get(path, "Served are POST /v1/chat/completions, POST /v1/messages and Gemini's generateContent.")
    return f"There is no {method.decode('latin-1')} {path[:200].decode('latin-1')} here. {hint}"
