"""What all meters share: bodies and events that are too large, too odd or not what was asked for."""

import orjson
import pytest

from data_plane.providers.dialect import Facts
from data_plane.providers.json_array import ArraySplitter
from data_plane.providers.metering import BodyMeter
from data_plane.providers.openai_chat import OpenAIChat
from data_plane.providers.registry import DIALECTS
from data_plane.providers.sse import TAIL_BYTES, Splitter, parse_event, raw_events
from shared.prices.usage import Usage

MIB = 1024 * 1024
STREAM = Facts("m", stream=True)


def in_reads(stream: bytes, size: int = 64 * 1024) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


@pytest.mark.parametrize("restore", [False, True])
def test_usage_is_found_after_a_ten_mebibyte_line(restore: bool) -> None:
    giant = b'data: {"id":"c","model":"gpt-4o","choices":[{"delta":{"content":"' + b"x" * (10 * MIB) + b'"}}]}\n\n'
    usage = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}\n\n'
    meter = DIALECTS["openai.chat"].meter(STREAM, restore=restore)

    out = b"".join(map(meter.feed, in_reads(giant + usage)))
    rest, reading = meter.finish()

    assert out + rest == (giant if restore else giant + usage)
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=5, output=6)


@pytest.mark.parametrize("restore", [False, True])
def test_usage_is_found_in_the_tail_of_a_ten_mebibyte_line(restore: bool) -> None:
    begin = b'data: {"id":"c7","model":"gpt-4o","choices":[{"delta":{"content":"' + b"x" * (10 * MIB) + b'"}}]'
    stream = b"".join((begin, b',"usage":{"prompt_tokens":5,"completion_tokens":6}}\n\n', b"data: [DONE]\n\n"))
    meter = DIALECTS["openai.chat"].meter(STREAM, restore=restore)

    out = b"".join(map(meter.feed, in_reads(stream)))
    rest, reading = meter.finish()

    assert out + rest == stream
    assert (reading.model, reading.provider_request_id, reading.final) == ("gpt-4o", "c7", True)
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=5, output=6)


def test_a_null_usage_is_cut_from_the_tail_of_an_oversized_event() -> None:
    begin = b'data: {"model":"gpt-4o","choices":[{"delta":{"content":"' + b"x" * (9 * MIB) + b'"}}]'
    meter = DIALECTS["openai.chat"].meter(STREAM, restore=True)
    out = b"".join(map(meter.feed, in_reads(begin + b',"usage":null}\n\n' + b"data: [DONE]\n\n")))
    assert out == begin + b"}\n\n" + b"data: [DONE]\n\n"


def test_anthropic_usage_is_found_in_an_oversized_event() -> None:
    start = b'data: {"type":"message_start","message":{"model":"c","usage":{"input_tokens":9,"output_tokens":1}}}\n\n'
    giant = b'data: {"type":"message_delta","delta":{"x":"' + b"x" * (9 * MIB) + b'"},"usage":{"output_tokens":44}}\n\n'
    meter = DIALECTS["anthropic"].meter(STREAM)
    for chunk in in_reads(start + giant):
        meter.feed(chunk)
    reading = meter.finish()[1]
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=9, output=44)


def test_gemini_usage_is_found_in_an_oversized_array_element() -> None:
    giant = b'[{"candidates":[{"content":{"parts":[{"text":"' + b"x" * (9 * MIB) + b'"}]},"finishReason":"STOP"}],'
    giant += b'"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4}}]'
    meter = DIALECTS["gemini"].meter(STREAM)
    for chunk in in_reads(giant):
        meter.feed(chunk)
    reading = meter.finish()[1]
    assert reading.metered is not None
    assert reading.metered.parts[0].usage == Usage(input=3, output=4)


def test_an_oversized_event_is_held_in_bounded_memory() -> None:
    splitter = Splitter()
    splitter.feed(b"data: ")
    for _ in range(40):
        splitter.feed(b"x" * MIB)
    assert len(splitter.finish()) <= 2 * TAIL_BYTES + MIB


def test_an_oversized_json_reply_is_read_from_its_tail() -> None:
    dialect = OpenAIChat()
    meter = BodyMeter(lambda head, body: dialect._read(head, body, Facts("m")), body_bytes_max=MIB)
    body = b'{"id":"c","model":"gpt-4o","choices":[{"message":{"content":"' + b"x" * (3 * MIB) + b'"}}],'
    for chunk in in_reads(body + b'"usage":{"prompt_tokens":5,"completion_tokens":6}}'):
        assert meter.feed(chunk) is chunk
    reading = meter.finish()[1]
    assert (reading.model, reading.final) == ("gpt-4o", True)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_stream_answered_with_a_json_body_is_read_as_one(dialect: str) -> None:
    error = b'\n {"type":"error","error":{"message":"no"}}'
    meter = DIALECTS[dialect].meter(STREAM)
    assert meter.feed(error[:9]) + meter.feed(error[9:]) == error
    rest, reading = meter.finish()
    assert (rest, reading.error, reading.finished) == (b"", True, True)
    assert meter.in_band("upstream_timeout", "x") == b""


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_whole_reply_passes_through_its_meter(dialect: str) -> None:
    meter = DIALECTS[dialect].meter(Facts("m"))
    assert meter.feed(b"{") == b"{"
    assert meter.reading().blank
    assert meter.finish()[1].flags == ["unparsable"]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'"text"', b"{", b"\xff\xfe", b"[" * 5000, b'{"a":NaN}'])
def test_a_reply_that_cannot_be_read_is_flagged_and_never_raises(dialect: str, body: bytes) -> None:
    reading = DIALECTS[dialect].read_json(body, Facts("m"))
    assert (reading.flags, reading.blank) == (["unparsable"], True)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"usage":7}', b'{"choices":{"a":1}}', b'{"content":[1,null,"x"]}', b'{"candidates":[{"content":7}]}'],
)
def test_a_reply_of_a_strange_shape_is_no_usage(dialect: str, body: bytes) -> None:
    reading = DIALECTS[dialect].read_json(body, Facts("m"))
    assert (reading.metered, reading.final) == (None, False)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_what_is_no_event_stream_is_flagged(dialect: str) -> None:
    meter = DIALECTS[dialect].meter(STREAM)
    meter.feed(b"<html>\n\n<body>")
    assert meter.finish()[1].flags == ["unparsable"]


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("begin", [b"", b": comment\n\n", b"da", b'data: {"id', b"\xef\xbb\xbfevent: x"])
def test_a_stream_that_has_not_shown_anything_is_blank_and_nothing_more(dialect: str, begin: bytes) -> None:
    meter = DIALECTS[dialect].meter(STREAM)
    meter.feed(begin)
    reading = meter.finish()[1]
    assert (reading.blank, reading.flags) == (True, [])


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_an_event_that_is_no_json_is_counted_by_its_bytes(dialect: str) -> None:
    meter = DIALECTS[dialect].meter(STREAM)
    meter.feed(b"data: {broken\n\n")
    reading = meter.finish()[1]
    assert (reading.flags, reading.output_bytes) == (["unparsable"], 7)


@pytest.mark.parametrize(
    ("raw", "parsed"),
    [
        (b"data: a\n\n", ("", b"a")),
        (b"data:a\r\n\r\n", ("", b"a")),
        (b"data:  a\r\r", ("", b" a")),
        (b"event: x\ndata: a\ndata: b\nid: 7\n\n", ("x", b"a\nb")),
        (b"\xef\xbb\xbfdata: a\n\n", ("", b"a")),
        (b": comment\ndata\n\n", ("", b"")),
        (b"retry: 3\n\n", ("", b"")),
    ],
)
def test_an_event_is_its_data_lines_joined(raw: bytes, parsed: tuple[str, bytes]) -> None:
    assert parse_event(raw) == parsed


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_every_blank_line_ends_an_event(end: bytes) -> None:
    block = b"data: a" + end + b"data: b" + end
    assert [parse_event(raw)[1] for raw in raw_events(block)] == [b"a", b"b"]
    assert b"".join(raw_events(block)) == block


def test_whole_events_come_back_as_the_same_object() -> None:
    block = b"data: a\n\ndata: b\n\n"
    assert Splitter().feed(block) is block


def test_array_elements_are_found_through_strings_and_escapes() -> None:
    elements = [{"a": "]}\\"}, {"b": [1, {"c": '"'}]}, {}, ["x"]]
    text = b" [ " + b" , ".join(map(orjson.dumps, elements)) + b" ] "
    splitter = ArraySplitter()
    found = [element for byte in text for _, element in splitter.feed(bytes([byte]))]
    assert list(map(orjson.loads, found)) == elements
    assert splitter.closed
