"""Anthropic replies: two reports in a stream, iterations, cache lifetimes, tools."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.registry import DIALECTS
from shared.prices.usage import PriceContext, Usage, UsagePart

FIXTURES = Path(__file__).parents[1] / "fixtures" / "providers"
STREAM_BYTES = (FIXTURES / "anthropic_stream.sse").read_bytes()
ANTHROPIC = DIALECTS["anthropic"]
STREAM = Facts("claude-sonnet-4-6", stream=True)


def read(stream: bytes, facts: Facts = STREAM, *, size: int = 0) -> Reading:
    meter = ANTHROPIC.meter(facts)
    step = size or len(stream) or 1
    out = b"".join(meter.feed(stream[at : at + step]) for at in range(0, len(stream), step))
    rest, reading = meter.finish()
    assert out + rest == stream
    return reading


def event(kind: str, **members: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **members}) + b"\n\n"


def begins(**usage: Any) -> bytes:
    return event("message_start", message={"id": "msg", "model": "claude-sonnet-4-6", "usage": usage})


def ends(**usage: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage) + event("message_stop")


def delta(kind: str, key: str, text: str, index: int = 0) -> bytes:
    return event("content_block_delta", index=index, delta={"type": kind, key: text})


def parts_of(report: dict[str, Any]) -> tuple[list[UsagePart], Reading]:
    reading = ANTHROPIC.read_json(orjson.dumps({"type": "message", "model": "m", "usage": report}), Facts("m"))
    assert reading.metered is not None
    return reading.metered.parts, reading


@pytest.mark.parametrize("size", [0, 1, 13, 400])
def test_a_stream_is_read(size: int) -> None:
    reading = read(STREAM_BYTES, size=size)

    assert reading.metered is not None
    assert reading.metered.parts == [
        UsagePart(
            Usage(
                input=1600,
                cache_read=50000,
                cache_write_5m=200,
                cache_write_1h=200,
                output=400,
                reasoning=120,
                web_search=2,
            )
        )
    ]
    assert (reading.final, reading.finished, reading.error, reading.flags) == (True, True, False, [])
    assert (reading.model, reading.provider_request_id) == ("claude-sonnet-4-6", "msg_fx1")
    assert reading.stop_reason == "tool_use"
    assert reading.tool_calls == [{"name": "read_news", "id": "toolu_fx1"}]
    assert (reading.output_deltas, reading.output_bytes, reading.reasoning_hidden) == (0, 0, False)


def test_iterations_are_the_truth_and_keep_their_models() -> None:
    reading = read((FIXTURES / "anthropic_iterations.sse").read_bytes())

    assert reading.metered is not None
    assert reading.metered.parts == [
        UsagePart(Usage(input=1100, output=140)),
        UsagePart(Usage(input=2600, output=20), "claude-opus-4-8"),
        UsagePart(Usage(input=900, output=10)),
    ]
    assert reading.metered.context == PriceContext(geo="global")


def test_a_compaction_is_a_run_of_its_own() -> None:
    reading = ANTHROPIC.read_json((FIXTURES / "anthropic_reply.json").read_bytes(), Facts("claude-opus-4-6"))

    assert reading.metered is not None
    assert reading.metered.parts == [
        UsagePart(Usage(input=160000, output=3000)),
        UsagePart(Usage(input=20000, output=800)),
    ]
    assert reading.metered.context == PriceContext(geo="us")
    assert reading.tool_calls == [{"name": "lookup", "id": "toolu_fx2"}]
    assert (reading.final, reading.finished, reading.stop_reason) == (True, True, "tool_use")


@pytest.mark.parametrize("iterations", [[], None])
def test_without_iterations_the_top_level_counts(iterations: object) -> None:
    parts, _ = parts_of({"input_tokens": 5, "output_tokens": 6, "iterations": iterations})
    assert parts == [UsagePart(Usage(input=5, output=6))]


def test_the_larger_of_start_and_end_counts_field_by_field_and_null_never_overwrites() -> None:
    start = begins(
        input_tokens=2000,
        cache_read_input_tokens=50000,
        cache_creation_input_tokens=0,
        cache_creation={"ephemeral_1h_input_tokens": 7},
        output_tokens=1,
        service_tier="standard",
    )
    end = ends(
        input_tokens=2300,
        cache_read_input_tokens=0,
        cache_creation_input_tokens=None,
        cache_creation=None,
        output_tokens=400,
        service_tier=None,
    )
    reading = read(start + end)
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=2300, cache_read=50000, cache_write_1h=7, output=400)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"cache_creation_input_tokens": 1000}, Usage(input=1, cache_write_5m=1000, output=2)),
        (
            {"cache_creation_input_tokens": 1000, "cache_creation": {"ephemeral_1h_input_tokens": 1000}},
            Usage(input=1, cache_write_1h=1000, output=2),
        ),
        (
            {"cache_creation_input_tokens": 1000, "cache_creation": {"ephemeral_1h_input_tokens": 400}},
            Usage(input=1, cache_write_1h=400, cache_write_5m=600, output=2),
        ),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 3}}, Usage(input=1, cache_write_5m=3, output=2)),
        (
            {"server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 9}},
            Usage(input=1, output=2, web_search=3),
        ),
        ({"output_tokens_details": {"thinking_tokens": 1}}, Usage(input=1, output=2, reasoning=1)),
    ],
)
def test_buckets_follow_the_cache_lifetimes_and_fees(report: dict[str, Any], expected: Usage) -> None:
    parts, reading = parts_of({"input_tokens": 1, "output_tokens": 2, **report})
    assert ([part.usage for part in parts], reading.flags) == ([expected], [])


def test_thinking_above_the_output_is_cut_and_flagged() -> None:
    parts, reading = parts_of(
        {"input_tokens": 1, "output_tokens": 10, "output_tokens_details": {"thinking_tokens": 11}}
    )
    assert parts[0].usage.reasoning == 10
    assert reading.flags == ["usage_inconsistent"]


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"input_tokens": -1, "output_tokens": 2},
        {"input_tokens": 1.5, "output_tokens": 2},
        {"input_tokens": 1, "output_tokens": "2"},
        {"input_tokens": 1, "output_tokens": 2, "iterations": [{"input_tokens": True}]},
    ],
)
def test_a_report_that_makes_no_sense_is_no_usage(report: dict[str, Any]) -> None:
    reading = ANTHROPIC.read_json(orjson.dumps({"type": "message", "usage": report}), Facts("m"))
    assert (reading.metered, reading.final) == (None, False)


def test_the_context_is_the_replys_else_the_one_asked_for() -> None:
    asked = Facts("m", context=PriceContext(speed="fast", geo="us"))
    usage = {"input_tokens": 1, "output_tokens": 1}
    silent = ANTHROPIC.read_json(orjson.dumps({"usage": usage}), asked)
    stated = ANTHROPIC.read_json(
        orjson.dumps({"usage": {**usage, "speed": "standard", "inference_geo": "global", "service_tier": "priority"}}),
        asked,
    )
    assert silent.metered is not None
    assert silent.metered.context == PriceContext(speed="fast", geo="us")
    assert stated.metered is not None
    assert stated.metered.context == PriceContext(service_tier="priority", geo="global")


def test_a_cut_stream_keeps_the_input_and_counts_the_output() -> None:
    start = begins(input_tokens=2000, cache_read_input_tokens=50000, output_tokens=3)
    _begun = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    reading = read(start + _begun + delta("text_delta", "text", "four") * 4)

    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=2000, cache_read=50000)
    assert (reading.final, reading.finished) == (False, False)
    assert (reading.output_deltas, reading.output_bytes) == (4, 16)


def test_a_stream_cut_before_any_delta_keeps_the_starts_tokens() -> None:
    reading = read(begins(input_tokens=2000, output_tokens=3))
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=2000, output=3)


@pytest.mark.parametrize(
    ("kind", "key"),
    [("text_delta", "text"), ("thinking_delta", "thinking"), ("input_json_delta", "partial_json"),
     ("compaction_delta", "content")],
)  # fmt: skip
def test_every_kind_of_delta_is_counted(kind: str, key: str) -> None:
    reading = read(begins(input_tokens=1, output_tokens=1) + delta(kind, key, 'say "\n"') * 5)
    assert reading.output_deltas == 5
    assert reading.output_bytes >= 5 * len('say "\n"')


def test_signatures_are_no_output() -> None:
    reading = read(begins(input_tokens=1, output_tokens=1) + delta("signature_delta", "signature", "x" * 500))
    assert (reading.output_deltas, reading.output_bytes) == (0, 0)


def test_searches_begun_before_a_cut_are_counted() -> None:
    search = event("content_block_start", index=1, content_block={"type": "server_tool_use", "name": "web_search"})
    fetch = event("content_block_start", index=2, content_block={"type": "server_tool_use", "name": "web_fetch"})
    reading = read(begins(input_tokens=1, output_tokens=1) + search + fetch + search)
    assert reading.metered is not None
    assert reading.metered.parts[0].usage.web_search == 2
    assert reading.tool_calls == []


def test_thinking_that_is_not_shown_is_hidden() -> None:
    start = begins(input_tokens=1, output_tokens=1)
    block = event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
    assert read(start + block).reasoning_hidden
    assert not read(start + block + delta("thinking_delta", "thinking", "so")).reasoning_hidden
    assert not read(start + block + ends(output_tokens=9)).reasoning_hidden
    assert not read(start + delta("text_delta", "text", "so")).reasoning_hidden


def test_an_error_event_is_seen() -> None:
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    reading = read(begins(input_tokens=7, output_tokens=1) + delta("text_delta", "text", "a") + error)
    assert (reading.error, reading.final, reading.output_deltas) == (True, False, 1)


def test_an_event_without_type_in_its_data_goes_by_its_name() -> None:
    start = b'event: message_start\ndata: {"message":{"model":"m","usage":{"input_tokens":4,"output_tokens":1}}}\n\n'
    reading = read(start + b'event: message_delta\ndata: {"delta":{},"usage":{"output_tokens":9}}\n\n')
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=4, output=9)


def test_an_error_body_is_read() -> None:
    reading = ANTHROPIC.read_json((FIXTURES / "anthropic_error.json").read_bytes(), Facts("m"))
    assert (reading.error, reading.metered) == (True, None)


def test_a_reply_without_usage_is_counted_by_its_text() -> None:
    body = orjson.dumps({"type": "message", "content": [{"type": "text", "text": "seven é"}]})
    reading = ANTHROPIC.read_json(body, Facts("m"))
    assert reading.output_bytes >= len("seven é".encode())


def test_an_error_of_ours_fits_the_stream() -> None:
    meter = ANTHROPIC.meter(STREAM)
    meter.feed(begins(input_tokens=1, output_tokens=1))
    assert meter.in_band("budget_exceeded", "Spent.") == (
        b'event: error\ndata: {"type":"error","error":{"type":"budget_exceeded","message":"Spent."}}\n\n'
    )
