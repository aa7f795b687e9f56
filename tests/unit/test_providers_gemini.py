"""Gemini replies: usage so far in every piece, modalities, thoughts, grounding fees, two framings of a stream."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.registry import DIALECTS
from shared.prices.usage import STANDARD, PriceContext, Usage

FIXTURES = Path(__file__).parents[1] / "fixtures" / "providers"
FRAMINGS = {name: (FIXTURES / name).read_bytes() for name in ("gemini_stream.sse", "gemini_stream_array.json")}
GEMINI = DIALECTS["gemini"]
STREAM = Facts("gemini-2.5-pro", stream=True, reasoning_hidden=True)


def read(stream: bytes, facts: Facts = STREAM, *, size: int = 0) -> Reading:
    meter = GEMINI.meter(facts)
    step = size or len(stream) or 1
    out = b"".join(meter.feed(stream[at : at + step]) for at in range(0, len(stream), step))
    rest, reading = meter.finish()
    assert out + rest == stream
    return reading


def usage_of(report: dict[str, Any], facts: Facts | None = None, **reply: Any) -> tuple[Usage, Reading]:
    reading = GEMINI.read_json(orjson.dumps({"usageMetadata": report, **reply}), facts or Facts("gemini-2.5-flash"))
    assert reading.metered is not None
    return reading.metered.parts[0].usage, reading


def piece(text: str = "", *, finish: str | None = None, **report: Any) -> bytes:
    candidate: dict[str, Any] = {"content": {"parts": [{"text": text}]}}
    if finish:
        candidate["finishReason"] = finish
    document: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-2.5-pro"}
    if report:
        document["usageMetadata"] = report
    return b"data: " + orjson.dumps(document) + b"\r\n\r\n"


def modality(kind: str, tokens: int) -> dict[str, Any]:
    return {"modality": kind, "tokenCount": tokens}


@pytest.mark.parametrize("framing", sorted(FRAMINGS))
@pytest.mark.parametrize("size", [0, 1, 11, 500])
def test_a_stream_is_read_in_either_framing(framing: str, size: int) -> None:
    reading = read(FRAMINGS[framing], size=size)

    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=119, output=653, reasoning=412, grounded=1)
    assert reading.metered.context is STANDARD
    assert (reading.final, reading.finished, reading.flags) == (True, True, [])
    assert (reading.model, reading.provider_request_id) == ("gemini-2.5-pro", "resp-fx1")
    assert reading.stop_reason == "STOP"
    assert reading.tool_calls == [{"name": "get_weather", "id": ""}]
    assert (reading.output_deltas, reading.reasoning_hidden) == (0, False)


def test_the_crlf_fixture_kept_its_line_ends() -> None:
    assert b"\r\n\r\n" in FRAMINGS["gemini_stream.sse"]


def test_a_reply_splits_its_modalities_cached_ones_too() -> None:
    reading = GEMINI.read_json((FIXTURES / "gemini_reply.json").read_bytes(), Facts("gemini-2.5-flash"))

    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(
        input=1,
        input_audio=36,
        input_image=107,
        input_video=190,
        cache_read=15325,
        cache_read_audio=1881,
        cache_read_image=173,
        output=889,
        reasoning=821,
    )
    assert (reading.final, reading.flags) == (True, [])


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"promptTokenCount": 9}, Usage(input=9)),
        ({"candidatesTokenCount": 9}, Usage(output=9)),
        ({"promptTokenCount": 9, "thoughtsTokenCount": 4}, Usage(input=9, output=4, reasoning=4)),
        (
            {"promptTokenCount": 294, "toolUsePromptTokenCount": 605, "candidatesTokenCount": 2},
            Usage(input=899, output=2),
        ),
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 1300,
             "candidatesTokensDetails": [modality("IMAGE", 1290), modality("TEXT", 10)]},
            Usage(input=10, output=10, output_image=1290),
        ),
        (
            {"promptTokenCount": 10, "candidatesTokenCount": 50, "candidatesTokensDetails": [modality("AUDIO", 50)]},
            Usage(input=10, output_audio=50),
        ),
        (
            {"promptTokenCount": 600, "candidatesTokenCount": 1, "promptTokensDetails": [modality("DOCUMENT", 516)]},
            Usage(input=84, input_image=516, output=1),
        ),
    ],
)  # fmt: skip
def test_counts_become_disjoint_buckets(report: dict[str, Any], expected: Usage) -> None:
    usage, reading = usage_of(report)
    assert (usage, reading.flags) == (expected, [])


def test_details_above_their_total_are_cut_and_flagged() -> None:
    usage, reading = usage_of(
        {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 300,
            "candidatesTokenCount": 1,
            "promptTokensDetails": [modality("AUDIO", 120)],
        }
    )
    assert usage.input_total == 100
    assert reading.flags == ["usage_inconsistent"]


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"totalTokenCount": 5},
        {"promptTokenCount": -5, "candidatesTokenCount": 1},
        {"promptTokenCount": "5"},
        {"promptTokenCount": 5, "promptTokensDetails": [modality("AUDIO", -1)]},
    ],
)
def test_a_report_that_makes_no_sense_is_no_usage(report: dict[str, Any]) -> None:
    reading = GEMINI.read_json(
        orjson.dumps({"usageMetadata": report, "candidates": [{"content": {"parts": [{"text": "four"}]}}]}), Facts("m")
    )
    assert (reading.metered, reading.final, reading.output_bytes) == (None, False, 4)


@pytest.mark.parametrize(
    ("model", "grounded", "searches"),
    [
        ("gemini-2.5-flash", 1, 0),
        ("gemini-2.0-flash", 1, 0),
        ("gemini-3.1-pro-preview", 0, 2),
        ("gemini-flash-latest", 0, 2),
    ],
)
def test_grounding_is_charged_by_reply_or_by_distinct_query(model: str, grounded: int, searches: int) -> None:
    candidates = [{"groundingMetadata": {"webSearchQueries": ["a", "b", "a", " ", ""]}}]
    usage, _ = usage_of({"promptTokenCount": 1}, Facts("other"), modelVersion=model, candidates=candidates)
    assert (usage.grounded, usage.web_search) == (grounded, searches)


@pytest.mark.parametrize(
    ("metadata", "fees"),
    [
        ({"groundingChunks": [{"retrievedContext": {"text": "x"}}]}, 0),
        ({"webSearchQueries": [""]}, 0),
        ({"groundingChunks": [{"maps": {"uri": "x"}}]}, 1),
        ({"imageSearchQueries": ["a", "b"]}, 2),
        ({}, 0),
    ],
)
def test_only_searches_of_the_web_and_of_maps_are_fees(metadata: dict[str, Any], fees: int) -> None:
    usage, _ = usage_of({"promptTokenCount": 1}, Facts("gemini-3-pro"), candidates=[{"groundingMetadata": metadata}])
    assert (usage.grounded, usage.web_search) == (0, fees)


@pytest.mark.parametrize(
    ("report", "tier"),
    [
        ({}, "flex"),
        ({"serviceTier": "standard"}, ""),
        ({"serviceTier": "PRIORITY"}, "priority"),
        ({"trafficType": "ON_DEMAND"}, ""),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, "provisioned_throughput"),
    ],
)
def test_the_tier_is_the_replys_else_the_one_asked_for(report: dict[str, Any], tier: str) -> None:
    _, reading = usage_of({"promptTokenCount": 1, **report}, Facts("m", context=PriceContext(service_tier="flex")))
    assert reading.metered is not None
    assert reading.metered.context.service_tier == tier


def test_the_last_report_counts_even_when_an_earlier_one_was_larger() -> None:
    first = piece("The", promptTokenCount=169, totalTokenCount=169)
    last = piece(" end", finish="STOP", promptTokenCount=79, candidatesTokenCount=12)
    reading = read(first + last)
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=79, output=12)


def test_a_cut_stream_counts_only_what_no_report_covers() -> None:
    covered = piece("covered", promptTokenCount=79, candidatesTokenCount=12, thoughtsTokenCount=30)
    reading = read(covered + piece("later", promptTokenCount=79) + piece("on", promptTokenCount=79))
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=79)
    assert (reading.final, reading.output_deltas, reading.output_bytes) == (False, 2, 7)
    assert read(covered).metered is not None
    assert (read(covered).output_deltas, read(covered).final) == (0, False)


def test_signatures_are_no_output() -> None:
    document = {"candidates": [{"content": {"parts": [{"thoughtSignature": "x" * 900, "text": "four"}]}}]}
    reading = read(b"data: " + orjson.dumps(document) + b"\n\n")
    assert (reading.output_deltas, reading.output_bytes, reading.reasoning_hidden) == (1, 4, True)


def test_a_blocked_prompt_is_an_end() -> None:
    document = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
    reading = read(b"data: " + orjson.dumps(document) + b"\n\n")
    assert (reading.stop_reason, reading.final) == ("SAFETY", True)


@pytest.mark.parametrize("stream", [b'data: {"error":{"code":503}}\n\n', b'[{"error":{"code":503}}]'])
def test_an_error_in_the_stream_is_seen(stream: bytes) -> None:
    reading = read(stream)
    assert (reading.error, reading.metered) == (True, None)


def test_an_error_of_ours_fits_the_framing() -> None:
    sse, array, early = (GEMINI.meter(STREAM) for _ in range(3))
    sse.feed(piece("a"))
    array.feed(b'[{"candidates":[]}')
    early.feed(b"[")

    error = b'{"error":{"code":429,"message":"Spent.","status":"RESOURCE_EXHAUSTED"}}'
    assert sse.in_band("budget_exceeded", "Spent.") == b"data: " + error + b"\n\n"
    assert array.in_band("budget_exceeded", "Spent.") == b"," + error + b"]"
    assert early.in_band("budget_exceeded", "Spent.") == error + b"]"
    assert b"DEADLINE_EXCEEDED" in sse.in_band("upstream_timeout", "Silent.")
    assert b"UNAVAILABLE" in sse.in_band("upstream_interrupted", "Gone.")
