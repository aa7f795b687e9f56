"""The chunked decoder against httptools, and on its own."""

from typing import Any

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_plane.chunked import ChunkedDecoder, ChunkedError


class _Collector:
    def __init__(self) -> None:
        self.body = b""
        self.done = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


def by_httptools(data: bytes) -> tuple[bytes, bool] | None:
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    parser.feed_data(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        if not collector.done:
            return None
    return collector.body, collector.done


def decode(data: bytes, sizes: list[int]) -> tuple[bytes, bool, bytes]:
    decoder = ChunkedDecoder(256, 8192)
    body, rest, at = b"", b"", 0
    cuts = iter(sizes)
    while at < len(data) and not decoder.done:
        piece = data[at : at + next(cuts, len(data))]
        at += len(piece)
        pieces, rest = decoder.feed(piece)
        body += b"".join(pieces)
    return body, decoder.done, rest + data[at:]


pieces = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
extensions = st.sampled_from([b"", b";a", b";a=b", b';a="b c"', b";a=b;c=d"])
cuts = st.lists(st.integers(min_value=1, max_value=9), max_size=200)


@st.composite
def chunked(draw: Any) -> tuple[bytes, bytes]:
    parts = draw(pieces)
    wire = b"".join(b"%X%b\r\n%b\r\n" % (len(part), draw(extensions), part) for part in parts)
    trailers = draw(st.sampled_from([b"", b"X-T: 1\r\n", b"A: b\r\nC:\r\n"]))
    return wire + b"0\r\n" + trailers + b"\r\n", b"".join(parts)


@given(chunked(), cuts, st.binary(max_size=30))
def test_a_body_is_decoded_however_it_is_cut_and_its_end_is_exact(
    body: tuple[bytes, bytes], sizes: list[int], after: bytes
) -> None:
    wire, content = body
    assert decode(wire + after, sizes) == (content, True, after)


alphabet = st.sampled_from(
    [
        b"0",
        b"3",
        b"a",
        b"F",
        b"\r\n",
        b"\r",
        b"\n",
        b";",
        b" ",
        b"x",
        b":",
        b"\x00",
        b"abc",
        b"0\r\n\r\n",
        b"3\r\nabc\r\n",
        b"\xff",
    ]
)


@given(st.lists(alphabet, max_size=14).map(b"".join), cuts)
@settings(max_examples=400)
def test_whatever_is_accepted_httptools_reads_the_same_way(data: bytes, sizes: list[int]) -> None:
    try:
        body, done, _ = decode(data, sizes)
    except ChunkedError:
        return
    reference = by_httptools(data)
    if done:
        assert reference == (body, True)
    elif reference is not None:
        assert not reference[1]


def until_refused(decoder: ChunkedDecoder, piece: bytes) -> int:
    """How many bytes it takes until the decoder gives up."""
    for count in range(20_000):
        try:
            decoder.feed(piece)
        except ChunkedError:
            return count * len(piece)
    pytest.fail("never refused")


def test_little_is_held_of_a_line_that_does_not_end() -> None:
    assert until_refused(ChunkedDecoder(256, 8192), b"1") < 300
    in_extension = ChunkedDecoder(256, 8192)
    in_extension.feed(b"1;")
    assert until_refused(in_extension, b"a") < 300
    in_trailers = ChunkedDecoder(256, 8192)
    in_trailers.feed(b"0\r\n")
    assert until_refused(in_trailers, b"a") < 8_300
