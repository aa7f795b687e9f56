"""Requests that cannot be right: each client raises its own typed error, in one attempt, and nothing leaves."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import anthropic
import httpx2
import openai
import orjson
import pytest
from google import genai
from google.genai import errors as genai_errors

from tests.support.control import Control
from tests.support.official import (
    DIALECTS,
    PROVIDER_KEY,
    Dialect,
    anthropic_client,
    genai_options,
    openai_client,
)
from tests.support.product import BODY_BYTES_MAX, Product
from tests.support.tape import Take, Tape
from tests.support.upstreams import Scripted, at_root

MODELS: Final[dict[Dialect, str]] = {
    "openai": "gpt-4o",
    "anthropic": "claude-sonnet-4-6",
    "gemini": "gemini-2.5-pro",
}
CAPS: Final[dict[Dialect, str]] = {"openai": "max_tokens", "anthropic": "max_tokens", "gemini": "maxOutputTokens"}
UNKNOWN_KEY: Final = "ns_live_sk_" + "0" * 32
_CAP: Final = b"CAP"


@dataclass(frozen=True, slots=True)
class Bad:
    """What is wrong, and what every client must be told. `cap` stands in the place of the output limit, as JSON."""

    status: int
    code: str
    cap: bytes = b"10"
    body: bytes | None = None
    key: str | None = None
    model: str | None = None
    field: bool = False
    """The answer names the output limit."""


BAD: Final = {
    "not JSON": Bad(400, "bad_request", body=b"{hello"),
    "not an object": Bad(400, "bad_request", body=b"[1, 2]"),
    "empty": Bad(400, "bad_request", body=b""),
    "oversized": Bad(413, "payload_too_large", body=b'{"x":"' + b"x" * BODY_BYTES_MAX + b'"}'),
    "a negative limit": Bad(400, "invalid_parameter", cap=b"-5", field=True),
    "a limit of zero": Bad(400, "invalid_parameter", cap=b"0", field=True),
    "a fractional limit": Bad(400, "invalid_parameter", cap=b"10.5", field=True),
    "a whole limit spelled as a fraction": Bad(400, "invalid_parameter", cap=b"1e1", field=True),
    "no number for a limit": Bad(400, "invalid_parameter", cap=b"NaN", field=True),
    "an infinite limit": Bad(400, "invalid_parameter", cap=b"Infinity", field=True),
    "a limit out of range": Bad(400, "invalid_parameter", cap=b"1e999", field=True),
    "text for a limit": Bad(400, "invalid_parameter", cap=b'"10"', field=True),
    "an unknown key": Bad(401, "unauthorized", key=UNKNOWN_KEY),
    "a malformed key": Bad(401, "unauthorized", key="secret"),
    "an unknown model": Bad(400, "unpriced_model", model="no-such-model-1"),
}
_OPENAI_ERRORS: Final = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    404: openai.NotFoundError,
    413: openai.APIStatusError,
}
_ANTHROPIC_ERRORS: Final = {
    400: anthropic.BadRequestError,
    401: anthropic.AuthenticationError,
    404: anthropic.NotFoundError,
    413: anthropic.RequestTooLargeError,
}
_GOOGLE_WORDS: Final = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 413: "INVALID_ARGUMENT"}


@pytest.fixture(autouse=True)
def nothing_leaves(scripted: Scripted) -> Iterator[None]:
    """Whatever the test sent, the provider did not see a byte of it."""
    before = scripted.stats()
    yield
    after = scripted.stats()
    assert (after["requests"], after["served"]) == (before["requests"], before["served"])


def good_body(dialect: Dialect, model: str) -> bytes:
    document: dict[str, Any]
    if dialect == "gemini":
        document = {
            "contents": [{"role": "user", "parts": [{"text": "hello"}]}],
            "generationConfig": {CAPS[dialect]: 0},
        }
    else:
        document = {"model": model, CAPS[dialect]: 0, "messages": [{"role": "user", "content": "hello"}]}
    return orjson.dumps(document).replace(f'"{CAPS[dialect]}":0'.encode(), f'"{CAPS[dialect]}":'.encode() + _CAP)


def send(dialect: Dialect, bad: Bad, product: Product, control: Control) -> tuple[Exception, Take]:
    """The client's own method, with the bad bytes in place of its body. The error it raised, and its one attempt."""
    model = bad.model or MODELS[dialect]
    body = bad.body if bad.body is not None else good_body(dialect, model).replace(_CAP, bad.cap)
    headers = {"X-NullSpend-Key": bad.key or control.key}

    def ask(tape: Tape) -> None:
        messages: Any = [{"role": "user", "content": "hello"}]
        with httpx2.Client(transport=tape) as http:
            match dialect:
                case "openai":
                    with openai_client(at_root(product.url), headers, http) as chat:
                        chat.chat.completions.create(model=model, messages=messages)
                case "anthropic":
                    with anthropic_client(at_root(product.url), headers, http) as claude:
                        claude.messages.create(model=model, messages=messages, max_tokens=10)
                case "gemini":
                    options = genai_options(at_root(product.url), headers, http)
                    with genai.Client(api_key=PROVIDER_KEY, http_options=options) as gemini:
                        gemini.models.generate_content(model=model, contents="hello")

    return raised_by(ask, Tape(body=body))


def raised_by(ask: Callable[[Tape], object], tape: Tape) -> tuple[Exception, Take]:
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError, genai_errors.APIError)) as raised:
        ask(tape)
    (take,) = tape.takes
    return raised.value, take


def assert_typed(dialect: Dialect, error: Exception, take: Take, *, status: int, code: str) -> dict[str, Any]:
    """The client read our error as its provider's. Returns the envelope's `error`."""
    assert (take.status, take.headers["x-nullspend-error"]) == (status, code)
    assert take.headers["x-should-retry"] == "false"
    document: dict[str, Any] = orjson.loads(take.body)
    told: dict[str, Any] = document["error"]
    match dialect:
        case "openai":
            assert type(error) is _OPENAI_ERRORS[status]
            assert isinstance(error, openai.APIStatusError)
            assert (error.code, error.type, error.body) == (code, code, told)
        case "anthropic":
            assert type(error) is _ANTHROPIC_ERRORS[status]
            assert isinstance(error, anthropic.APIStatusError)
            assert (document["type"], error.body) == ("error", document)
        case "gemini":
            assert type(error) is genai_errors.ClientError
            assert (error.code, error.message) == (status, told["message"])
    what, _, named = told["message"].partition(" [")
    assert named.startswith(code)
    assert what.endswith((".", "?")), "a sentence says what is wrong"
    return told


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_bad_request_raises_the_client_s_own_error_and_never_leaves(
    dialect: Dialect, name: str, product: Product, control: Control
) -> None:
    bad = BAD[name]
    error, take = send(dialect, bad, product, control)
    told = assert_typed(dialect, error, take, status=bad.status, code=bad.code)
    if dialect == "gemini":
        assert (told["code"], told["status"]) == (bad.status, _GOOGLE_WORDS[bad.status])
    if bad.field:
        assert CAPS[dialect] in told["details"]["field"]
    if bad.model:
        assert bad.model in told["message"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_route_that_does_not_exist_is_not_found(dialect: Dialect, product: Product, control: Control) -> None:
    headers = {"X-NullSpend-Key": control.key}

    def ask(tape: Tape) -> None:
        with httpx2.Client(transport=tape) as http:
            match dialect:
                case "openai":
                    with openai_client(at_root(product.url), headers, http) as chat:
                        chat.embeddings.create(model="text-embedding-3-small", input="hello")
                case "anthropic":
                    with anthropic_client(at_root(product.url), headers, http) as claude:
                        claude.messages.count_tokens(model=MODELS[dialect], messages=[{"role": "user", "content": "x"}])
                case "gemini":
                    options = genai_options(at_root(product.url), headers, http)
                    with genai.Client(api_key=PROVIDER_KEY, http_options=options) as gemini:
                        gemini.models.count_tokens(model=MODELS[dialect], contents="hello")

    error, take = raised_by(ask, Tape())
    assert_typed(dialect, error, take, status=404, code="not_found")
