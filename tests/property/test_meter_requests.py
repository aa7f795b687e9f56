"""Request bodies: what repeats is found as a parser that keeps everything finds it, and usage is asked for exactly."""

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from data_plane.providers.registry import DIALECTS
from shared.errors import RequestRefusal

KEYS = st.sampled_from(["model", "n", "stream", "max_tokens", "messages", "seed", "usage", "tools", "x"])
SPELLINGS = {
    "n": ["n", "\\u006e"],
    "model": ["model", "\\u006dodel", "mo\\u0064el"],
    "max_tokens": ["max_tokens", "max\\u005ftokens"],
}
WATCHED = {"model", "n", "stream", "max_tokens", "messages", "tools"}
SCALARS = st.sampled_from(["1", "null", "true", '"model"', '"\\"n\\":1"', '"\\\\u006e"', "1.5", "[]", '["n"]'])


@st.composite
def objects(draw: st.DrawFn, depth: int = 2) -> str:
    members = []
    for _ in range(draw(st.integers(0, 5))):
        key = draw(KEYS)
        spelled = draw(st.sampled_from(SPELLINGS.get(key, [key])))
        value = draw(objects(depth - 1)) if depth and draw(st.booleans()) else draw(SCALARS)
        members.append(f'"{spelled}"{draw(st.sampled_from(["", " "]))}:{value}')
    return "{" + draw(st.sampled_from([",", " , "])).join(members) + "}"


def repeats(body: str) -> bool:
    """Whether a watched key stands twice in the outermost object."""
    outermost: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        outermost[:] = [key for key, _ in pairs]  # the outermost object is closed last
        return dict(pairs)

    json.loads(body, object_pairs_hook=collect)
    return any(outermost.count(key) > 1 for key in WATCHED)


@given(body=objects())
def test_a_watched_key_is_refused_exactly_when_it_repeats(body: str) -> None:
    code = ""
    try:
        DIALECTS["openai.chat"].facts(body.encode())
    except RequestRefusal as refusal:
        code = refusal.code
    assert (code == "ambiguous_json") is repeats(body)


@given(body=objects())
def test_asking_for_usage_changes_that_member_alone(body: str) -> None:
    dialect = DIALECTS["openai.chat"]
    sent = body.encode()
    with contextlib.suppress(RequestRefusal):
        prepared, modified = dialect.prepare(sent, dialect.facts(sent))
        before, after = json.loads(sent), json.loads(prepared)
        if modified is None:
            assert prepared is sent
        else:
            assert after.pop("stream_options") == {"include_usage": True}
            assert after == before


@given(st.binary(max_size=60))
def test_any_bytes_are_facts_or_a_refusal(body: bytes) -> None:
    for dialect in DIALECTS.values():
        with contextlib.suppress(RequestRefusal):
            dialect.facts(body, "gemini-2.5-pro")
        dialect.read_json(body, dialect_facts(dialect.name))


def dialect_facts(name: str) -> Any:
    return DIALECTS[name].facts(b'{"model":"m"}', "m")


NAMES = (
    "usage choices message delta content tool_calls function type candidates parts usageMetadata promptTokenCount "
    "prompt_tokens input_tokens iterations error tools messages contents source inlineData generationConfig max_uses "
    "stream_options"
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=4),
    max_leaves=12,
)


@given(document=JSON)
def test_any_document_is_read_without_failing(document: Any) -> None:
    text = json.dumps(document).encode()
    for dialect in DIALECTS.values():
        facts = dialect_facts(dialect.name)
        dialect.read_json(text, facts)
        with contextlib.suppress(RequestRefusal):
            dialect.facts(b'{"model":"m","body":' + text + b"}", "m")
        with contextlib.suppress(RequestRefusal):
            dialect.facts(text, "m")
        facts.stream = True
        meter = dialect.meter(facts)
        meter.feed(b"data: " + text + b"\n\n")
        meter.reading()
        meter.finish()
