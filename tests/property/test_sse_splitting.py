"""A stream means the same wherever the network cuts it."""

import re

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from data_plane.providers.json_array import ArraySplitter
from data_plane.providers.sse import Splitter, parse_event, raw_events

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
VALUES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
FIELDS = st.sampled_from(["data: ", "data:", "event: ", "id: ", ": ", "retry:", "junk"])
LINES = st.tuples(FIELDS, VALUES).map("".join)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.one_of(LINES, st.just("")), max_size=20))
    text = "".join(line + draw(ENDS) for line in lines)
    return (draw(st.sampled_from(["", "\ufeff"])) + text).encode()


@st.composite
def pieces(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def specified(stream: bytes) -> list[bytes]:
    """The data of every event of a finished stream, read line by line as the standard says."""
    events: list[bytes] = []
    data: list[bytes] = []
    for line in re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf")):
        name, _, value = line.partition(b":")
        if not line:
            events += [b"\n".join(data)] if data else []
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return events


@given(st.data())
@example(None)
def test_every_event_is_found_once_at_every_split(data: st.DataObject | None) -> None:
    stream = b"data: a\r\n\r\ndata: b\n\r\n: c\r\r" if data is None else data.draw(streams())
    parts = [stream[n : n + 1] for n in range(len(stream))] if data is None else data.draw(pieces(stream))
    splitter = Splitter()

    blocks = [block for part in parts if (block := splitter.feed(part))]
    blocks.append(splitter.finish())

    assert b"".join(blocks) == stream
    found = [payload for block in blocks for raw in raw_events(block) if (payload := parse_event(raw)[1])]
    ended = [payload for payload in specified(stream) if payload]
    assert found[: len(ended)] == ended
    assert len(found) <= len(ended) + 1  # what was not ended may be read too


@given(st.data())
def test_array_elements_are_found_at_every_split(data: st.DataObject) -> None:
    values = st.recursive(st.text(max_size=6) | st.integers(0, 99), lambda inner: st.lists(inner, max_size=3))
    elements = data.draw(st.lists(st.dictionaries(st.text(max_size=4), values, max_size=3), max_size=4))
    gap = data.draw(st.sampled_from([b",", b"\n,\r\n", b" , "]))
    stream = b"[" + gap.join(map(orjson.dumps, elements)) + b"]\n"
    splitter = ArraySplitter()

    found = [orjson.loads(element) for part in data.draw(pieces(stream)) for _, element in splitter.feed(part)]

    assert found == elements
    assert splitter.closed
