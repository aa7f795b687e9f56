"""OpenAI chat replies: usage in every shape its imitators use, and the stream with our request for usage undone."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from data_plane.providers.dialect import Facts, Reading
from data_plane.providers.registry import DIALECTS
from shared.prices.usage import STANDARD, PriceContext, Usage

FIXTURES = Path(__file__).parents[1] / "fixtures" / "providers"
ASKED = (FIXTURES / "openai_stream_asked.sse").read_bytes()
PLAIN = (FIXTURES / "openai_stream_plain.sse").read_bytes()
OPENAI = DIALECTS["openai.chat"]
STREAM = Facts("gpt-5.4", stream=True)


def read(stream: bytes, facts: Facts = STREAM, *, restore: bool = False, size: int = 0) -> tuple[bytes, Reading]:
    meter = OPENAI.meter(facts, restore=restore)
    step = size or len(stream) or 1
    out = b"".join(meter.feed(stream[at : at + step]) for at in range(0, len(stream), step))
    rest, reading = meter.finish()
    return out + rest, reading


def usage_of(report: dict[str, Any], **reply: Any) -> tuple[Usage, list[str]]:
    body = orjson.dumps({"id": "c", "model": "m", "choices": [], "usage": report, **reply})
    reading = OPENAI.read_json(body, Facts("m"))
    assert reading.metered is not None
    assert reading.final
    return reading.metered.parts[0].usage, reading.flags


def chunk(**members: Any) -> bytes:
    return b"data: " + orjson.dumps({"id": "c", "model": "m", **members}) + b"\n\n"


def delta(text: str, **members: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], **members)


def test_a_reply_is_read() -> None:
    reading = OPENAI.read_json((FIXTURES / "openai_reply.json").read_bytes(), Facts("gpt-4o"))

    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=800, cache_read=200, output=500)
    assert reading.metered.context is STANDARD
    assert (reading.model, reading.provider_request_id) == ("gpt-4o-2024-11-20", "chatcmpl-fx2")
    assert (reading.stop_reason, reading.final, reading.finished, reading.flags) == ("stop", True, True, [])


def test_an_error_body_has_no_usage() -> None:
    reading = OPENAI.read_json((FIXTURES / "openai_error.json").read_bytes(), Facts("gpt-4o"))
    assert (reading.error, reading.metered, reading.output_bytes) == (True, None, 0)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 0}, Usage(input=10)),
        ({"prompt_tokens": 0, "completion_tokens": 180}, Usage(output=180)),
        ({"prompt_tokens": 5, "total_tokens": 5}, Usage(input=5)),
        (
            {"prompt_tokens": 10000, "completion_tokens": 1000,
             "prompt_tokens_details": {"cached_tokens": 2000, "cache_write_tokens": 3000}},
            Usage(input=5000, cache_read=2000, cache_write=3000, output=1000),
        ),
        (
            {"prompt_tokens": 1200, "completion_tokens": 800, "prompt_tokens_details": {"audio_tokens": 1000},
             "completion_tokens_details": {"audio_tokens": 600, "rejected_prediction_tokens": 40}},
            Usage(input=200, input_audio=1000, output=200, output_audio=600),
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 1,
             "prompt_tokens_details": {"audio_tokens": 50, "cached_tokens": 80}},
            Usage(input=0, input_audio=20, cache_read=50, cache_read_audio=30, output=1),
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 9,
             "prompt_tokens_details": {"image_tokens": 60, "video_tokens": 30}},
            Usage(input=10, input_image=60, input_video=30, output=9),
        ),
        # DeepSeek says hits twice, Mistral and Moonshot beside the details.
        (
            {"prompt_tokens": 64, "completion_tokens": 6, "prompt_cache_hit_tokens": 32, "prompt_cache_miss_tokens": 32,
             "prompt_tokens_details": {"cached_tokens": 32}},
            Usage(input=32, cache_read=32, output=6),
        ),
        ({"prompt_tokens": 64, "completion_tokens": 6, "prompt_cache_hit_tokens": 32},
         Usage(input=32, cache_read=32, output=6)),
        ({"prompt_tokens": 64, "completion_tokens": 6, "num_cached_tokens": 32},
         Usage(input=32, cache_read=32, output=6)),
        ({"prompt_tokens": 64, "completion_tokens": 6, "cached_tokens": 32},
         Usage(input=32, cache_read=32, output=6)),
        # xAI counts reasoning beside the completion, everybody else within.
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115,
             "completion_tokens_details": {"reasoning_tokens": 100}},
            Usage(input=10, output=105, reasoning=100),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 105, "total_tokens": 115,
             "completion_tokens_details": {"reasoning_tokens": 100}},
            Usage(input=10, output=105, reasoning=100),
        ),
        (
            {"prompt_tokens": 8174, "completion_tokens": 30, "server_tool_use_details": {"web_search_requests": 1}},
            Usage(input=8174, output=30, web_search=1),
        ),
        ({"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": None}, Usage(input=1, output=1)),
    ],
)  # fmt: skip
def test_counts_become_disjoint_buckets(report: dict[str, Any], expected: Usage) -> None:
    usage, flags = usage_of(report)
    assert (usage, flags) == (expected, [])


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            {"prompt_tokens": 43, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 11}},
            Usage(input=43, output=10, reasoning=10),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(input=0, cache_read=10, output=1),
        ),
    ],
)
def test_a_part_above_its_whole_is_cut_and_flagged(report: dict[str, Any], expected: Usage) -> None:
    usage, flags = usage_of(report)
    assert (usage, flags) == (expected, ["usage_inconsistent"])


@pytest.mark.parametrize(
    "report",
    [
        {},
        [],
        "usage",
        {"total_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 1.0, "completion_tokens": 5},
        {"prompt_tokens": True, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": "5"},
        {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": -3}},
        {"prompt_tokens": 10**12, "completion_tokens": 5},
    ],
)
def test_a_report_that_makes_no_sense_is_no_usage(report: object) -> None:
    body = orjson.dumps({"id": "c", "model": "m", "usage": report, "choices": [{"message": {"content": "four"}}]})
    reading = OPENAI.read_json(body, Facts("m"))
    assert (reading.metered, reading.final, reading.output_bytes) == (None, False, 4)


def test_the_tier_is_the_replys_else_the_one_asked_for() -> None:
    asked = Facts("m", context=PriceContext(service_tier="flex"))
    report = {"prompt_tokens": 1, "completion_tokens": 1}
    stated = OPENAI.read_json(orjson.dumps({"usage": report, "service_tier": "default"}), asked)
    silent = OPENAI.read_json(orjson.dumps({"usage": report, "service_tier": None}), asked)
    raised = OPENAI.read_json(orjson.dumps({"usage": report, "service_tier": "priority"}), asked)
    assert [reading.metered and reading.metered.context.service_tier for reading in (stated, silent, raised)] == [
        "",
        "flex",
        "priority",
    ]


def test_the_cost_a_provider_states_is_kept_in_microdollars() -> None:
    report = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.0133176}
    reading = OPENAI.read_json(orjson.dumps({"usage": report}), Facts("m"))
    assert reading.reported_cost_microdollars == 13318


def test_a_stream_is_read() -> None:
    out, reading = read(ASKED)

    assert out == ASKED
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=995, cache_read=1024, output=330, reasoning=192)
    assert (reading.final, reading.finished, reading.error, reading.flags) == (True, True, False, [])
    assert (reading.model, reading.provider_request_id) == ("gpt-5.4-2026-03-05", "chatcmpl-fx1")
    assert reading.stop_reason == "tool_calls"
    assert reading.tool_calls == [{"name": "get_weather", "id": "call_fx1"}]
    assert (reading.output_deltas, reading.output_bytes) == (0, 0)


def test_a_stream_without_usage_is_counted() -> None:
    _, reading = read(PLAIN)
    assert (reading.metered, reading.final, reading.finished) == (None, False, True)
    texts = ["Two lines,\n", 'a "usage":null quote and \\ then é ☃ 😀 }],usage end.', '{"city":"Bern","usage":null}']
    assert (reading.output_deltas, reading.output_bytes) == (16, len("".join(texts).encode()))


def test_an_untouched_read_comes_back_as_the_same_object() -> None:
    meter = OPENAI.meter(STREAM)
    events = [event + b"\n\n" for event in PLAIN.split(b"\n\n") if event]
    assert all(meter.feed(event) is event for event in events)


def test_the_restored_stream_is_the_stream_without_our_request() -> None:
    for size in (0, 1, 7, 100, 999):
        out, reading = read(ASKED, restore=True, size=size)
        assert out == PLAIN
        assert reading.metered is not None
        assert reading.final


def test_restored_events_leave_as_soon_as_they_are_complete() -> None:
    meter = OPENAI.meter(STREAM, restore=True)
    event = delta("Hi", usage=None)
    assert meter.feed(event[:20]) == b""
    assert meter.feed(event[20:]) == event.replace(b',"usage":null', b"")


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b'data: {"choices":[],"usage" : null }\n\n', b'data: {"choices":[] }\n\n'),
        (b'data: {"usage":null,"choices":[]}\n\n', b'data: {"choices":[]}\n\n'),
        (b'data: {"usage":null}\n\n', b"data: {}\n\n"),
        (b'data:{"choices":[],\ndata: "usage":null}\n\n', b'data:{"choices":[]}\n\n'),
        (b'event: x\r\ndata: {"a":1, "usage": null}\r\n\r\n', b'event: x\r\ndata: {"a":1}\r\n\r\n'),
        (b'data: {"choices":[{"usage":null}]}\n\n', None),
        (b'data: {"choices":[{"delta":{"content":"\\"usage\\":null"}}]}\n\n', None),
        (b'data: {"a":{"b":1,"usage":null}}\n\n', None),
        (b'data: {"a":"usage"}\n\n', None),
        (b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n', None),
        (b'data: {"choices":[],"usage":null,broken}\n\n', None),
        (b": usage\n\n", None),
    ],
)
def test_only_an_outermost_null_usage_is_cut(sent: bytes, shown: bytes | None) -> None:
    assert read(sent, restore=True)[0] == (sent if shown is None else shown)


def test_only_one_usage_chunk_without_choices_is_dropped() -> None:
    usage = chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2})
    empty = chunk(choices=[], filters=[])
    assert read(delta("a") + usage + empty + usage, restore=True)[0] == delta("a") + empty + usage


def test_an_unfinished_event_at_the_end_is_passed_on_and_read() -> None:
    usage = chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2}).rstrip(b"\n")
    out, reading = read(delta("a") + usage)
    assert out == delta("a") + usage
    assert reading.final
    half = delta("b", usage=None)[:-20]
    assert read(delta("a") + half, restore=True)[0] == delta("a") + half


def test_groqs_usage_is_found_where_it_puts_it() -> None:
    report = {"prompt_tokens": 3, "completion_tokens": 4}
    end = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], x_groq={"id": "req", "usage": report})
    _, reading = read(delta("a") + end + b"data: [DONE]\n\n")
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=3, output=4)


def test_usage_with_every_chunk_covers_what_was_shown_until_then() -> None:
    def counted(text: str, tokens: int) -> bytes:
        return delta(text, usage={"prompt_tokens": 9, "completion_tokens": tokens})

    _, cut = read(counted("a", 1) + counted("b", 2) + delta("ccc"))
    assert cut.metered is not None
    assert cut.metered.parts[0].usage.output == 2
    assert (cut.final, cut.output_deltas, cut.output_bytes) == (False, 1, 3)

    _, whole = read(counted("a", 1) + counted("b", 2) + b"data: [DONE]\n\n")
    assert whole.final


def test_the_last_usage_counts() -> None:
    first = chunk(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 1})
    last = chunk(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 7})
    _, reading = read(first + last + chunk(choices=[], usage=None))
    assert reading.metered is not None
    assert reading.metered.parts[0].usage.output == 7


def test_an_error_in_the_stream_is_seen() -> None:
    _, reading = read(delta("a") + chunk(error={"message": "overloaded", "code": 502}, choices=[]))
    assert (reading.error, reading.final, reading.output_deltas) == (True, False, 1)


def test_shown_reasoning_is_counted_and_nothing_is_hidden() -> None:
    facts = Facts("openai/o3", stream=True, reasoning_hidden=True)
    thought = chunk(
        choices=[{"index": 0, "delta": {"content": "", "reasoning": "hmm", "reasoning_details": [{"text": "hmm"}]}}]
    )
    _, shown = read(thought * 3, facts)
    _, hidden = read(delta("a") * 3, facts)
    assert (shown.output_deltas, shown.output_bytes, shown.reasoning_hidden) == (3, 9, False)
    assert hidden.reasoning_hidden


@pytest.mark.parametrize("key", ["content", "reasoning_content", "refusal"])
def test_every_kind_of_text_is_counted(key: str) -> None:
    event = chunk(choices=[{"index": 0, "delta": {key: "four"}, "finish_reason": None}])
    _, reading = read(event * 5)
    assert (reading.output_deltas, reading.output_bytes) == (5, 20)


def test_half_an_emoji_is_text_like_any_other() -> None:
    event = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\n'
    _, reading = read(delta("a") * 3 + event * 3)
    assert (reading.output_deltas, reading.flags) == (6, [])


def test_escapes_count_as_what_they_stand_for() -> None:
    _, reading = read(delta("ab") + delta("\n\t") + delta('"\\') + delta("é"))
    assert (reading.output_deltas, reading.output_bytes) == (4, 8)


def test_parallel_tool_calls_are_all_noted() -> None:
    def call(index: int, name: str) -> dict[str, Any]:
        return {"index": index, "id": f"call_{index}", "function": {"name": name, "arguments": ""}}

    both = chunk(choices=[{"index": 0, "delta": {"tool_calls": [call(0, "a"), call(1, "b")]}}])
    piece = chunk(choices=[{"index": 0, "delta": {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}}])
    _, reading = read(both + piece * 3)
    assert reading.tool_calls == [{"name": "a", "id": "call_0"}, {"name": "b", "id": "call_1"}]


def test_an_error_of_ours_fits_the_stream() -> None:
    meter = OPENAI.meter(STREAM)
    meter.feed(delta("a"))
    assert meter.in_band("budget_exceeded", "Spent.") == (
        b'data: {"error":{"message":"Spent.","type":"budget_exceeded","code":"budget_exceeded","param":null}}\n\n'
    )
    meter.feed(delta("b")[:-9])
    assert meter.in_band("upstream_timeout", "Silent.").startswith(b"\n\ndata: ")
