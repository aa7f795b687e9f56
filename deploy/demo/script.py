"""What the scripted provider shall do: read from a `#script:` directive in the caller's text, over defaults.

Token counts are totals: `in` includes what is cached and written to the cache, `out` includes reasoning.
"""

import json
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, get_args

MARKER: Final = "#script:"
BYTES_PER_TOKEN: Final = 4
FILLER_BYTES_MAX: Final = 64 * 1024
MARK: Final = "[scripted reply, not a model's] "
_FILLER: Final = "one two three four five six seven eight nine ten eleven twelve. "
_SENTENCE: Final = f"{MARK}You asked for nothing in particular, so this is what every caller is told."

FaultKind = Literal[
    "reset_before_headers",
    "reset_after_headers",
    "cut_after_chunks",
    "hang_after_chunks",
    "error_after_chunks",
    "no_usage",
    "unparsable",
    "hang",
    "usage_in_error",
    "gzip",
]


class ScriptError(ValueError):
    """A directive that cannot be obeyed; the caller is told with a 400, so that no test passes by accident."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one reply. `input` includes the cached and the written ones, `output` includes reasoning."""

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0

    @property
    def cache_write(self) -> int:
        return self.cache_write_5m + self.cache_write_1h

    @property
    def uncached(self) -> int:
        return self.input - self.cached - self.cache_write

    @property
    def visible(self) -> int:
        return self.output - self.reasoning

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


NO_TOKENS: Final = TokenUsage()


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    after_chunks: int = 0

    @classmethod
    def parse(cls, text: str) -> "Fault":
        kind, colon, number = text.partition(":")
        counted = kind.endswith("_after_chunks")
        if kind not in get_args(FaultKind) or counted != bool(colon) or (counted and not number.isdecimal()):
            raise ScriptError(f"unknown fault {text!r}: it is one of {', '.join(get_args(FaultKind))}; _chunks take :N")
        return cls(kind, int(number) if counted else 0)  # type: ignore[arg-type]  # checked above


@dataclass(frozen=True, slots=True)
class Script:
    """A directive as given; None is left to the defaults that `deploy.demo.dialect` derives from the request."""

    input: int | None = None
    output: int | None = None
    cached: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    chunks: int | None = None
    delay_ms: int = 0
    """Between two pieces of a stream."""
    first_delay_ms: int = 0
    """Before the head of the reply."""
    text: str | None = None
    model: str | None = None
    status: int | None = None
    error: str | None = None
    retry_after_s: int | None = None
    fault: Fault | None = None
    service_tier: str | None = None

    def fails(self, kind: FaultKind) -> bool:
        return self.fault is not None and self.fault.kind == kind


_KEYS: Final = {"in": "input", "out": "output"} | {
    field.name: field.name for field in fields(Script) if field.name not in {"input", "output"}
}
_TEXTS: Final = frozenset({"text", "model", "error", "fault", "service_tier"})


def read(document: object, base: Script) -> Script:
    """The directive `document` (a JSON object) over `base`. A null member takes the default back."""
    if not isinstance(document, dict):
        raise ScriptError("a script is a JSON object")
    changes: dict[str, Any] = {}
    for key, value in document.items():
        if key not in _KEYS:
            raise ScriptError(f"unknown member {key!r}: a script has {', '.join(_KEYS)}")
        name = _KEYS[key]
        changes[name] = getattr(_NOTHING, name) if value is None else _checked(key, value)
    return replace(base, **changes)


_NOTHING: Final = Script()


def _checked(key: str, value: object) -> object:
    if key in _TEXTS:
        if not isinstance(value, str):
            raise ScriptError(f"{key!r} is a string")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ScriptError(f"{key!r} has half a character, which no JSON encoder sends")
        return Fault.parse(value) if key == "fault" else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ScriptError(f"{key!r} is a whole number of at least 0")
    if key == "status" and value != 200 and not 400 <= value <= 599:
        raise ScriptError("'status' is 200 or between 400 and 599")
    return value


def find(text: str, base: Script) -> Script:
    """The script for a request whose last user message is `text`: the object after the last marker, or `base`."""
    _, marker, rest = text.rpartition(MARKER)
    if not marker:
        return base
    try:
        document, _ = json.JSONDecoder().raw_decode(rest.lstrip())
    except ValueError as error:
        raise ScriptError(f"no JSON object follows {MARKER}") from error
    return read(document, base)


def reply_text(script: Script, visible_tokens: int | None) -> str:
    """The scripted text, or one that says that it is scripted, about as long as its tokens and never shorter."""
    if script.text is not None:
        return script.text
    chunks = script.chunks or 0
    if visible_tokens is None:
        text, bytes_wanted = _SENTENCE, chunks
    else:
        text, bytes_wanted = MARK, min(max(visible_tokens * BYTES_PER_TOKEN, chunks), max(FILLER_BYTES_MAX, chunks))
    missing = max(0, bytes_wanted - len(text))
    return text + (_FILLER * (missing // len(_FILLER) + 1))[:missing]
