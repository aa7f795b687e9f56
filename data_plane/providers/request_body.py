"""Reading a request body: JSON or a refusal that names the field. What two parsers could read differently is refused.

Nothing is rewritten; the bytes go to the provider as they came.
"""

import re
from itertools import islice
from typing import Any, Final

import orjson

from data_plane.providers.json_text import MARKS_MAX, has_escaped_letters, parse, repeated_key
from shared.errors import RequestRefusal

TOKENS_MAX: Final = 10_000_000
CANDIDATES_MAX: Final = 128
USES_UNBOUNDED: Final = 10
"""Assumed uses of a hosted tool whose request sets no limit."""
USES_MAX: Final = 1_000
MODEL_CHARS_MAX: Final = 512

NESTED_MAX: Final = 500_000
"""Objects and lists in a body. No request needs as many, and every one of them costs time."""
_LENIENT_BYTES_MAX: Final = 4 * 1024 * 1024
_KEY_BEFORE: Final = re.compile(r'"([^"\\]{1,64})"\s*:\s*[-+]?$')


class Watch:
    """The keys a dialect reads from a body, as dotted paths: the ones that must not occur twice."""

    __slots__ = ("names", "paths", "pattern")

    def __init__(self, *paths: str) -> None:
        self.paths = frozenset(paths)
        self.names = frozenset(path.rpartition(".")[2] for path in paths)
        self.pattern = re.compile(b'"(?:' + b"|".join(re.escape(n.encode()) for n in sorted(self.names)) + b')"')


def read_object(body: bytes, watch: Watch) -> dict[str, Any]:
    """The body as an object. Raises RequestRefusal."""
    if len(body) > NESTED_MAX and body.count(b"{") + body.count(b"[") > NESTED_MAX:
        raise bad_request(f"The body holds more than {NESTED_MAX} objects and lists.")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        document = _second_opinion(body, error, watch)
    if not isinstance(document, dict):
        raise bad_request("The body must be a JSON object.")
    _refuse_repeats(body, document, watch)
    return document


def _refuse_repeats(body: bytes, document: dict[str, Any], watch: Watch) -> None:
    # What comes back byte-equal from a round trip repeats nothing. SDKs send exactly that form, so the search for
    # repeated keys runs for unusual spacing, escapes and numbers only.
    try:
        if orjson.dumps(document) == body:
            return
    except TypeError:  # lone surrogates
        pass
    names = [match[0] for match in islice(watch.pattern.finditer(body), MARKS_MAX + 1)]
    if len(names) == len(set(names)) and not has_escaped_letters(body):
        return
    try:
        path = repeated_key(body, watch.pattern, watch.paths)
    except ValueError:
        raise bad_request("The body repeats field names, or spells their letters as escapes, too often.") from None
    if path is not None:
        raise ambiguous(path)


def _second_opinion(body: bytes, error: orjson.JSONDecodeError, watch: Watch) -> Any:
    """Why the strict parser refused: a number that is none, or lone surrogates, which providers may accept."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise bad_request("The body is not UTF-8.") from None
    match = _KEY_BEFORE.search(text[max(0, error.pos - 80) : error.pos])
    if match is not None and match[1] in watch.names and text[error.pos : error.pos + 1] not in ("", ",", "}"):
        raise invalid(match[1], "must be a JSON value; NaN, Infinity and numbers out of range are none")
    if "surrogate" in error.msg and len(body) <= _LENIENT_BYTES_MAX:
        try:
            return parse(body)
        except (ValueError, RecursionError):
            pass
    raise bad_request(f"The body is not valid JSON: {error.msg} at character {error.pos}.")


def bad_request(message: str) -> RequestRefusal:
    return RequestRefusal(400, "bad_request", message)


def invalid(field: str, reason: str) -> RequestRefusal:
    return RequestRefusal(400, "invalid_parameter", f"`{field}` {reason}.", details={"field": field, "reason": reason})


def ambiguous(field: str) -> RequestRefusal:
    reason = "stands more than once, and parsers disagree on which one counts"
    return RequestRefusal(400, "ambiguous_json", f"`{field}` {reason}.", details={"field": field, "reason": reason})


def whole_number(value: Any, field: str, highest: int, lowest: int = 1) -> int | None:
    """A watched number, None when absent or null. Anything but a JSON integer in range is refused."""
    if value is None:
        return None
    if type(value) is not int or not lowest <= value <= highest:
        raise invalid(field, f"must be a whole number from {lowest} to {highest}")
    return value


def flag(value: Any, field: str) -> bool:
    if value is None:
        return False
    if not isinstance(value, bool):
        raise invalid(field, "must be true or false")
    return value


def model_name(value: Any, field: str = "model") -> str:
    if not isinstance(value, str) or not value or len(value) > MODEL_CHARS_MAX:
        raise invalid(field, f"must be a model's name (a string of 1 to {MODEL_CHARS_MAX} characters)")
    return value


def word(value: Any) -> str:
    """A name the price may depend on, lower case; anything but a string is none."""
    return value.lower() if isinstance(value, str) else ""


def members(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; anything else is none. Providers judge the rest of the shape."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
