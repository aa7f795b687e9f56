"""What two servers could read differently is refused with 400, and the connection closes."""

import pytest

from tests.fakes.wire import Recorder, Wire, head_of, turns

LINE = b"POST /a HTTP/1.1\r\n"
HOST = b"Host: gw\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

REFUSED_HEADS = {
    "a length with a transfer coding": LINE + HOST + b"Content-Length: 3\r\n" + CHUNKED + b"\r\n",
    "a transfer coding with a length": LINE + HOST + CHUNKED + b"Content-Length: 3\r\n\r\n",
    "a repeated length": LINE + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a listed length": LINE + HOST + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": LINE + HOST + b"Content-Length: +3\r\n\r\nabc",
    "a negative length": LINE + HOST + b"Content-Length: -3\r\n\r\nabc",
    "a hexadecimal length": LINE + HOST + b"Content-Length: 0x3\r\n\r\nabc",
    "an underscored length": LINE + HOST + b"Content-Length: 1_0\r\n\r\n0123456789",
    "an overflowing length": LINE + HOST + b"Content-Length: 18446744073709551619\r\n\r\nabc",
    "a length of many digits": LINE + HOST + b"Content-Length: 0000000000000003\r\n\r\nabc",
    "an empty length": LINE + HOST + b"Content-Length: \r\n\r\nabc",
    "a transfer coding in front": LINE + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a transfer coding behind": LINE + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "identity coding": LINE + HOST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "identity coding, then chunked": LINE + HOST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice in a list": LINE + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two transfer codings": LINE + HOST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "a second transfer coding of another kind": LINE
    + HOST
    + b"Transfer-Encoding: gzip\r\n"
    + CHUNKED
    + b"\r\n0\r\n\r\n",
    "an empty transfer coding": LINE + HOST + b"Transfer-Encoding:\r\n\r\n",
    "an almost chunked coding": LINE + HOST + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunked with a parameter": LINE + HOST + b"Transfer-Encoding: chunked;q=1\r\n\r\n",
    "a transfer coding on HTTP/1.0": b"POST /a HTTP/1.0\r\n" + HOST + CHUNKED + b"\r\n0\r\n\r\n",
    "a blank before the colon": LINE + HOST + b"Content-Length : 3\r\n\r\nabc",
    "a folded header": LINE + HOST + b"X: a\r\n b\r\n\r\n",
    "a folded coding": LINE + HOST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a header without a colon": LINE + HOST + b"Nonsense\r\n\r\n",
    "a header without a name": LINE + HOST + b": x\r\n\r\n",
    "a bare line feed after the request line": b"POST /a HTTP/1.1\n" + HOST + b"\r\n",
    "a bare line feed after a header": LINE + b"Host: gw\nX: y\r\n\r\n",
    "bare line feeds only": b"GET /a HTTP/1.1\nHost: gw\n\n",
    "a bare carriage return in a value": LINE + HOST + b"X: a\rb\r\n\r\n",
    "a NUL in a value": LINE + HOST + b"X: a\x00b\r\n\r\n",
    "a NUL in a name": LINE + HOST + b"X\x00: a\r\n\r\n",
    "a control character in a value": LINE + HOST + b"X: a\x01b\r\n\r\n",
    "a blank in a name": LINE + HOST + b"X Y: a\r\n\r\n",
    "a non-ASCII name": LINE + HOST + b"X\xc3\xa9: a\r\n\r\n",
    "no Host": LINE + b"\r\n",
    "a second Host": LINE + HOST + b"Host: other\r\n\r\n",
    "the same Host twice": LINE + HOST + HOST + b"\r\n",
    "a Host with a path": LINE + b"Host: gw/a\r\n\r\n",
    "a Host with credentials": LINE + b"Host: a@gw\r\n\r\n",
    "a Host with a blank": LINE + b"Host: gw other\r\n\r\n",
    "a Host list": LINE + b"Host: gw\x2c other\r\n\r\n",
    "a Host with obs-text": LINE + b"Host: gw\xff\r\n\r\n",
    "an absolute target": b"GET http://other/a HTTP/1.1\r\n" + HOST + b"\r\n",
    "an authority target": b"CONNECT other:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "an asterisk target": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a fragment": b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with obs-text": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a blank": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target with a tab": b"GET /a\tb HTTP/1.1\r\n" + HOST + b"\r\n",
    "two blanks before the target": b"GET  /a HTTP/1.1\r\n" + HOST + b"\r\n",
    "two blanks before the version": b"GET /a  HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /a\r\n",
    "HTTP/0.9 with headers": b"GET /a\r\n" + HOST + b"\r\n",
    "HTTP/2.0": b"GET /a HTTP/2.0\r\n" + HOST + b"\r\n",
    "HTTP/1.2": b"GET /a HTTP/1.2\r\n" + HOST + b"\r\n",
    "a version with two digits": b"GET /a HTTP/1.10\r\n" + HOST + b"\r\n",
    "a lower-case version": b"GET /a http/1.1\r\n" + HOST + b"\r\n",
    "the HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "RTSP": b"DESCRIBE /a RTSP/1.0\r\n" + HOST + b"\r\n",
    "ICE": b"SOURCE /a ICE/1.0\r\n" + HOST + b"\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an unknown method": b"FOO /a HTTP/1.1\r\n" + HOST + b"\r\n",
    "a lower-case method": b"get /a HTTP/1.1\r\n" + HOST + b"\r\n",
    "an empty line twice": b"\r\n\r\nGET /a HTTP/1.1\r\n" + HOST + b"\r\n",
    "a line feed in front": b"\nGET /a HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("data", REFUSED_HEADS.values(), ids=[name.replace(" ", "-") for name in REFUSED_HEADS])
async def test_an_ambiguous_head_is_refused_and_closes(data: bytes) -> None:
    app = Recorder()
    client = Wire(app).connect()
    client.send(data)
    await turns()
    assert head_of(client.received)[0] == 400
    assert head_of(client.received)[1][b"connection"] == b"close"
    assert client.closed
    assert not app.requests


@pytest.mark.parametrize("data", REFUSED_HEADS.values(), ids=[name.replace(" ", "-") for name in REFUSED_HEADS])
async def test_an_ambiguous_head_in_pieces_is_refused_too(data: bytes) -> None:
    app = Recorder()
    client = Wire(app).connect()
    for byte in data:
        if client.closed:
            break
        client.send(bytes([byte]))
    await turns()
    assert head_of(client.received)[0] == 400
    assert client.closed
    assert not app.requests


async def test_what_follows_a_refused_head_is_not_read() -> None:
    app = Recorder()
    client = Wire(app).connect()
    client.send(LINE + HOST + b"X : y\r\n\r\n" + b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
    client.send(b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")
    await turns()
    assert client.received.count(b"HTTP/1.1 ") == 1
    assert not app.requests


BAD_CHUNKS = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "a size that is no number": b"x\r\nabc\r\n0\r\n\r\n",
    "a signed size": b"+3\r\nabc\r\n0\r\n\r\n",
    "a prefixed size": b"0x3\r\nabc\r\n0\r\n\r\n",
    "an underscored size": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "a size with a blank in front": b" 3\r\nabc\r\n0\r\n\r\n",
    "a size followed by a word": b"3 x\r\nabc\r\n0\r\n\r\n",
    "an overflowing size": b"FFFFFFFFFFFFFFFFF\r\nabc",
    "a size line that ends in a line feed": b"3\nabc\r\n0\r\n\r\n",
    "a chunk longer than its size": b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk that ends in a line feed": b"3\r\nabc\n0\r\n\r\n",
    "a chunk without an end": b"3\r\nabc0\r\n\r\n",
    "a NUL in an extension": b"3;a\x00\r\nabc\r\n0\r\n\r\n",
    "a line feed in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a carriage return in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "an extension over 256 bytes": b"3;" + b"a" * 256 + b"\r\nabc\r\n0\r\n\r\n",
    "an extension that never ends": b"3;" + b"a" * 4096,
    "a trailer that is no header": b"3\r\nabc\r\n0\r\nnonsense\r\n\r\n",
    "a folded trailer": b"3\r\nabc\r\n0\r\na: b\r\n c\r\n\r\n",
    "trailers without end": b"3\r\nabc\r\n0\r\n" + b"a: b\r\n" * 4096,
    "a trailer line without end": b"3\r\nabc\r\n0\r\na: " + b"b" * 20_000,
}


@pytest.mark.parametrize("data", BAD_CHUNKS.values(), ids=[name.replace(" ", "-") for name in BAD_CHUNKS])
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte-by-byte", "at-once"])
async def test_a_body_that_is_not_validly_chunked_is_refused(data: bytes, size: int) -> None:
    app = Recorder()
    client = Wire(app).connect()
    client.send(LINE + HOST + CHUNKED + b"\r\n")
    await turns()
    for at in range(0, len(data), size):
        if not client.transport.reading:
            break
        client.send(data[at : at + size])
    await turns()
    assert head_of(client.received)[0] == 400
    assert client.closed
    assert not app.bodies


async def test_a_trailer_cannot_set_a_header() -> None:
    app = Recorder()
    wire = Wire(app)
    data = LINE + HOST + CHUNKED + b"\r\n3;a=b\r\nabc\r\n0\r\nX-NullSpend-Key: stolen\r\n\r\n"
    assert head_of(await wire.exchange(data))[0] == 200
    assert app.bodies == [b"abc"]
    assert b"x-nullspend-key" not in app.requests[0].lower
    assert all(name != b"X-NullSpend-Key" for name, _ in app.requests[0].headers)


async def test_an_extension_of_256_bytes_is_dropped() -> None:
    app = Recorder()
    data = LINE + HOST + CHUNKED + b"\r\n3;" + b"a" * 255 + b"\r\nabc\r\n0\r\n\r\n"
    assert head_of(await Wire(app).exchange(data))[0] == 200
    assert app.bodies == [b"abc"]


@pytest.mark.parametrize(
    "host",
    [b"gw", b"GW.example.com:443", b"127.0.0.1:8787", b"[::1]:8787", b"a_b", b""],
)
async def test_an_ordinary_host_is_taken(host: bytes) -> None:
    app = Recorder()
    assert head_of(await Wire(app).exchange(LINE + b"Host: " + host + b"\r\n\r\n"))[0] == 200


async def test_http_1_0_may_come_without_a_host() -> None:
    assert head_of(await Wire(Recorder()).exchange(b"GET /a HTTP/1.0\r\n\r\n"))[0] == 200
