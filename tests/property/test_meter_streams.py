"""Meters: the same reading at every split, and our request for usage undone byte for byte."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.registry import DIALECTS

FIXTURES = Path(__file__).parents[1] / "fixtures" / "providers"
RECORDED = [
    ("openai.chat", "openai_stream_asked.sse"),
    ("openai.chat", "openai_stream_plain.sse"),
    ("anthropic", "anthropic_stream.sse"),
    ("anthropic", "anthropic_iterations.sse"),
    ("gemini", "gemini_stream.sse"),
    ("gemini", "gemini_stream_array.json"),
]
TEXTS = st.text(max_size=15) | st.sampled_from(['"usage":null', ',"usage":null}', "\\", '"', "{", "}\n\n", "usage", ""])
USAGE = {"prompt_tokens": 12, "completion_tokens": 34, "completion_tokens_details": {"reasoning_tokens": 5}}


def read(dialect: str, parts: list[bytes], *, restore: bool = False) -> tuple[bytes, Reading]:
    meter = DIALECTS[dialect].meter(Facts("m", stream=True), restore=restore)
    out = b"".join(map(meter.feed, parts))
    rest, reading = meter.finish()
    return out + rest, reading


def cut(stream: bytes, cuts: set[int]) -> list[bytes]:
    places = sorted(place for place in cuts if place < len(stream))
    return [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]


@pytest.mark.parametrize(("dialect", "name"), RECORDED)
def test_a_stream_is_read_the_same_at_every_single_split(dialect: str, name: str) -> None:
    stream = (FIXTURES / name).read_bytes()
    whole = read(dialect, [stream])
    assert all(read(dialect, [stream[:at], stream[at:]]) == whole for at in range(0, len(stream), 3))


@pytest.mark.parametrize(("dialect", "name"), RECORDED)
@given(cuts=st.sets(st.integers(1, 6000), max_size=40))
def test_a_stream_is_read_the_same_at_any_splits(dialect: str, name: str, cuts: set[int]) -> None:
    stream = (FIXTURES / name).read_bytes()
    assert read(dialect, cut(stream, cuts)) == read(dialect, [stream])


@pytest.mark.parametrize(("dialect", "name"), RECORDED)
def test_a_cut_stream_never_fails_and_never_shows_more_than_the_whole(dialect: str, name: str) -> None:
    stream = (FIXTURES / name).read_bytes()
    for at in range(0, len(stream), 7):
        out, reading = read(dialect, [stream[:at]])
        assert out == stream[:at]
        assert reading.output_bytes <= at


@st.composite
def chunks(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Chunks as sent without our request; the order of members, padding and nesting vary."""
    base = {"id": "c", "model": draw(st.sampled_from(["m", "n"]))}
    padded = draw(st.booleans())
    out: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(0, 8))):
        delta = draw(
            st.one_of(
                TEXTS.map(lambda text: {"content": text}),
                TEXTS.map(lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
                TEXTS.map(lambda text: {"reasoning": text, "usage": None}),
                st.just({}),
            )
        )
        chunk: dict[str, Any] = {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        if draw(st.booleans()) and draw(st.booleans()):
            chunk = {**base, "choices": [], "moderation": {"usage": None, "note": draw(TEXTS)}}
        if padded:
            chunk["obfuscation"] = draw(st.text("abcXYZ09", max_size=6))
        out.append(chunk)
    return out


def spelled(chunk: dict[str, Any], separators: tuple[str, str], end: str) -> bytes:
    return f"data: {json.dumps(chunk, separators=separators, ensure_ascii=False)}{end}{end}".encode(errors="replace")


def with_usage(chunk: dict[str, Any], usage: object, place: str) -> dict[str, Any]:
    """The chunk as it comes when usage was asked for."""
    if place == "last" or "obfuscation" not in chunk:
        return {**chunk, "usage": usage}
    padding = chunk["obfuscation"]
    return {
        **{key: value for key, value in chunk.items() if key != "obfuscation"},
        "usage": usage,
        "obfuscation": padding,
    }


@given(
    plain=chunks(),
    style=st.tuples(st.sampled_from([(",", ":"), (", ", ": ")]), st.sampled_from(["\n", "\r\n"])),
    place=st.sampled_from(["last", "before padding"]),
    usage_at=st.integers(0, 9),
    cuts=st.sets(st.integers(1, 3000), max_size=25),
)
def test_the_restored_stream_is_the_stream_without_our_request(
    plain: list[dict[str, Any]], style: tuple[tuple[str, str], str], place: str, usage_at: int, cuts: set[int]
) -> None:
    separators, end = style
    done = f"data: [DONE]{end}{end}".encode()
    asked = [with_usage(chunk, None, place) for chunk in plain]
    asked.insert(usage_at, with_usage({"id": "c", "model": "m", "choices": []}, USAGE, place))
    sent = b"".join(spelled(chunk, separators, end) for chunk in asked) + done
    expected = b"".join(spelled(chunk, separators, end) for chunk in plain) + done

    shown, reading = read("openai.chat", cut(sent, cuts), restore=True)

    assert shown == expected
    assert reading == read("openai.chat", [sent])[1]
    assert reading.metered is not None
    assert reading.final
