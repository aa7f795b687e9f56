"""Opening, keeping and losing connections to a provider; every time a call may take; names, addresses and TLS."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from data_plane.upstream import Base, Timeouts, UpstreamFailure, UpstreamPool, UpstreamResponse
from tests.fakes.certificates import Authority
from tests.fakes.scripted_upstream import Collected, Peer, until, upstream
from tests.fakes.wire import HandWheel, no_loop_errors

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def pooled(**options: Any) -> AsyncIterator[tuple[UpstreamPool, HandWheel]]:
    wheel = HandWheel()
    pool = UpstreamPool(wheel, **options)
    with no_loop_errors():
        yield pool, wheel
        pool.close()
        await asyncio.sleep(0.005)


def send(
    pool: UpstreamPool, base: Base, body: bytes = b"{}", timeouts: Timeouts | None = None
) -> "asyncio.Task[UpstreamResponse]":
    return asyncio.create_task(pool.send(base, b"POST", b"/x", headers=[], body=body, timeouts=timeouts or Timeouts()))


async def failing(call: "asyncio.Task[UpstreamResponse]") -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await asyncio.wait_for(call, 2)
    return caught.value


async def answering(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.send(OK)


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


# --- the pool ---


async def test_concurrent_calls_have_connections_of_their_own_and_leave_them_for_the_next() -> None:
    async with pooled() as (pool, _), upstream(answering) as up:
        for _ in range(3):
            replies = await asyncio.gather(*(send(pool, up.base) for _ in range(5)))
            assert [await reply.read(10) for reply in replies] == [b"ok"] * 5
        assert len(up.peers) == 5


async def test_a_pooled_connection_found_dead_is_replaced_before_anything_is_written() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 0:
            return  # the provider closes an idle connection
        await answering(peer)

    async with pooled() as (pool, _), upstream(script) as up:
        assert await (await send(pool, up.base)).read(10) == b"ok"
        await asyncio.sleep(0.005)
        assert await (await send(pool, up.base)).read(10) == b"ok"
        assert len(up.peers) == 2
        assert len(up.requests) == 2


async def test_a_request_that_was_written_is_never_repeated() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()  # the second request is read, then the connection breaks

    async with pooled() as (pool, _), upstream(script) as up:
        assert await (await send(pool, up.base)).read(10) == b"ok"
        failure = await failing(send(pool, up.base))
        assert (failure.phase, failure.bytes_written, failure.timeout) == ("first_byte", True, False)
        assert len(up.requests) == 2


async def test_idle_connections_close_in_time() -> None:
    async with pooled(idle_s=50.0) as (pool, wheel), upstream(answering) as up:
        await (await send(pool, up.base)).read(10)
        wheel.pass_time(49)
        await (await send(pool, up.base)).read(10)
        wheel.pass_time(49)
        await (await send(pool, up.base)).read(10)
        assert len(up.peers) == 1
        wheel.pass_time(51)
        await until(up.peers[0].reader.at_eof)
        assert not pool.connections.origins
        await (await send(pool, up.base)).read(10)
        assert len(up.peers) == 2


async def test_a_provider_may_say_that_it_closes_idle_connections_sooner() -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max=100\r\nContent-Length: 2\r\n\r\nok")

    async with pooled() as (pool, wheel), upstream(script) as up:
        await (await send(pool, up.base)).read(10)
        wheel.pass_time(3)
        await (await send(pool, up.base)).read(10)
        assert len(up.peers) == 1
        wheel.pass_time(4.5)
        await until(up.peers[0].reader.at_eof)


async def test_a_limited_number_of_idle_connections_is_kept() -> None:
    async with pooled(idle_max=2) as (pool, _), upstream(answering) as up:
        replies = await asyncio.gather(*(send(pool, up.base) for _ in range(5)))
        for reply in replies:
            await reply.read(10)
        origin = pool.connections.origin(up.base)
        assert origin.idle_count == 2
        await until(lambda: len(origin.connections) == 2)


async def test_bases_that_differ_in_their_path_share_connections() -> None:
    async with pooled() as (pool, _), upstream(answering) as up:
        for path in ("", "/v1", "/v2"):
            base = Base(up.base.scheme, up.base.host, up.base.port, path)
            await (await send(pool, base)).read(10)
        assert len(up.peers) == 1


async def test_a_closed_pool_closes_idle_connections_now_and_busy_ones_after_their_reply() -> None:
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await go.wait()
        await peer.send(OK)
        await peer.gone()

    async with pooled() as (pool, _), upstream(script) as up:
        busy = send(pool, up.base)
        await until(lambda: len(up.requests) == 1)
        await (await send(pool, up.base)).read(10)
        pool.close()
        await until(up.peers[1].reader.at_eof)
        assert not up.peers[0].reader.at_eof()
        go.set()
        assert await (await busy).read(10) == b"ok"
        await until(up.peers[0].reader.at_eof)


# --- opening ---


async def test_a_refused_connection_fails_with_nothing_written() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with pooled() as (pool, _):
            failure = await failing(send(pool, Base("http", "127.0.0.1", unused.getsockname()[1], "")))
    assert (failure.phase, failure.bytes_written, failure.timeout) == ("connect", False, False)


async def test_a_connection_that_is_not_accepted_in_time_fails() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for filler in (first, second):  # the queue of the listener is full now
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            async with pooled() as (pool, _):
                base = Base("http", "127.0.0.1", full.getsockname()[1], "")
                failure = await failing(send(pool, base, timeouts=Timeouts(connect_s=0.03)))
    assert (failure.phase, failure.bytes_written, failure.timeout) == ("connect", False, True)


async def test_a_name_that_does_not_resolve_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with pooled() as (pool, _):
        failure = await failing(send(pool, Base("http", "does-not-exist.invalid", 80, "")))
    assert (failure.phase, failure.bytes_written) == ("dns", False)


def resolving(answers: Callable[[str], list[str]]) -> tuple[Callable[..., Any], list[str]]:
    asked: list[str] = []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        await asyncio.sleep(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answers(host)]

    return getaddrinfo, asked


async def test_a_name_is_looked_up_once_in_30_s_however_many_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    getaddrinfo, asked = resolving(lambda _: ["127.0.0.1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)

    async with pooled() as (pool, wheel), upstream(once, host="provider.example") as up:
        for reply in await asyncio.gather(*(send(pool, up.base) for _ in range(5))):
            await reply.read(10)
        assert asked == ["provider.example"]
        wheel.pass_time(29)
        await (await send(pool, up.base)).read(10)
        assert len(asked) == 1
        wheel.pass_time(2)
        await (await send(pool, up.base)).read(10)
        assert len(asked) == 2
        assert all(b"Host: provider.example:%d\r\n" % up.base.port in request for request in up.requests)


async def test_addresses_that_are_not_allowed_are_never_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    getaddrinfo, _ = resolving(lambda _: ["127.0.0.1", "127.0.0.2"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    judged: list[str] = []

    def allow(ip: str) -> bool:
        judged.append(ip)
        return False

    async with pooled(allow=allow) as (pool, _), upstream(answering, host="inside.example") as up:
        failure = await failing(send(pool, up.base))
        assert (failure.phase, failure.bytes_written) == ("dns", False)
        assert "not allowed" in failure.message
        assert judged == ["127.0.0.1", "127.0.0.2"]
        assert not up.peers
        literal = await failing(send(pool, Base("http", "127.0.0.1", up.base.port, "")))
        assert literal.phase == "dns"


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.9"]])  # a name that changes its mind
    getaddrinfo, asked = resolving(lambda _: next(answers))
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with (
        pooled(allow=lambda ip: ip == "127.0.0.1") as (pool, _),
        upstream(answering, host="rebind.example") as up,
    ):
        assert await (await send(pool, up.base)).read(10) == b"ok"
        assert len(asked) == 1


async def test_the_next_address_is_tried_when_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    getaddrinfo, _ = resolving(lambda _: ["127.0.0.2", "127.0.0.1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with pooled() as (pool, _), upstream(answering, host="two.example") as up:
        assert await (await send(pool, up.base)).read(10) == b"ok"


async def test_an_address_that_swallows_packets_does_not_use_up_the_time_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    getaddrinfo, _ = resolving(lambda _: ["192.0.2.1", "127.0.0.1"])
    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    connect = loop.sock_connect

    async def sock_connect(sock: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "192.0.2.1":
            await asyncio.sleep(5)
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    async with pooled() as (pool, _), upstream(answering, host="two.example") as up:
        reply = await asyncio.wait_for(send(pool, up.base, timeouts=Timeouts(connect_s=0.1)), 1)
        assert await reply.read(10) == b"ok"


# --- times ---


async def test_a_provider_that_does_not_answer_in_time_is_given_up() -> None:
    async with pooled() as (pool, wheel), upstream(silent) as up:
        call = send(pool, up.base, timeouts=Timeouts(first_byte_s=20))
        await until(lambda: len(up.requests) == 1)
        wheel.pass_time(19)
        await asyncio.sleep(0)
        assert not call.done()
        wheel.pass_time(2)
        failure = await failing(call)
        assert (failure.phase, failure.bytes_written, failure.timeout) == ("first_byte", True, True)
        await until(up.peers[0].reader.at_eof)


async def test_interim_replies_do_not_stop_the_clock() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await peer.gone()

    async with pooled() as (pool, wheel), upstream(script) as up:
        call = send(pool, up.base, timeouts=Timeouts(first_byte_s=20))
        await until(lambda: len(up.requests) == 1)
        await asyncio.sleep(0.005)
        wheel.pass_time(21)
        assert (await failing(call)).timeout


async def test_a_provider_that_does_not_take_the_request_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        transport = peer.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        await asyncio.sleep(5)

    async with pooled() as (pool, wheel), upstream(script) as up:
        call = send(pool, up.base, body=b"x" * 20_000_000)
        await until(lambda: len(up.peers) == 1)
        await asyncio.sleep(0.05)
        wheel.pass_time(28)
        await asyncio.sleep(0)
        assert not call.done()
        wheel.pass_time(4)
        failure = await failing(call)
        assert (failure.phase, failure.bytes_written, failure.timeout) == ("write", True, True)


async def test_a_provider_that_falls_silent_in_its_reply_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.reader.read(1)

    async with pooled() as (pool, wheel), upstream(script) as up:
        reply = await send(pool, up.base, timeouts=Timeouts(idle_s=10, first_byte_s=600))
        collected = Collected()
        piping = asyncio.create_task(reply.pipe(collected))
        await asyncio.sleep(0)
        for _ in range(5):
            wheel.pass_time(9)
            before = len(collected.pieces)
            await up.peers[0].send(b"1\r\nx\r\n")
            await until(lambda: len(collected.pieces) > before)  # noqa: B023 - awaited in the same turn
        assert collected.alive
        wheel.pass_time(11)
        await asyncio.wait_for(piping, 1)
        assert collected.failure is not None
        assert (collected.failure.phase, collected.failure.timeout) == ("body", True)


async def test_silence_is_not_counted_while_the_reply_is_paused() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        await peer.reader.read(1)

    async with pooled() as (pool, wheel), upstream(script) as up:
        reply = await send(pool, up.base, timeouts=Timeouts(idle_s=10, call_s=1_000))
        collected = Collected()
        piping = asyncio.create_task(reply.pipe(collected))
        await until(lambda: collected.body == b"ab")
        reply.pause()
        wheel.pass_time(500)
        assert collected.alive
        reply.resume()
        wheel.pass_time(9)
        assert collected.alive
        wheel.pass_time(2)
        assert collected.failure is not None
        await piping


async def test_a_whole_call_has_an_end_even_if_bytes_keep_coming() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await peer.reader.read(1)

    async with pooled() as (pool, wheel), upstream(script) as up:
        reply = await send(pool, up.base, timeouts=Timeouts(idle_s=10, call_s=100))
        collected = Collected()
        piping = asyncio.create_task(reply.pipe(collected))
        await asyncio.sleep(0)
        for n in range(1, 14):
            wheel.pass_time(8)
            if collected.failure is not None:
                break
            await up.peers[0].send(b"1\r\nx\r\n")
            await until(lambda: len(collected.pieces) == n)  # noqa: B023 - awaited in the same turn
        await asyncio.wait_for(piping, 1)
        assert len(collected.pieces) == 12
        assert collected.failure is not None
        assert "100 s" in collected.failure.message


# --- TLS ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


async def test_tls_is_verified_against_the_name_while_the_connection_goes_to_the_address(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    getaddrinfo, _ = resolving(lambda _: ["127.0.0.1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    names: list[str | None] = []
    server = authority.server("provider.example")
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    async with (
        pooled(ssl_context=authority.client()) as (pool, _),
        upstream(answering, tls=server, host="provider.example") as up,
    ):
        for _ in range(2):
            assert await (await send(pool, up.base, body=b"x" * 100_000)).read(10) == b"ok"
        assert len(up.peers) == 1
        assert names == ["provider.example"]


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_wrong_name_or_an_unknown_authority_is_a_tls_failure(authority: Authority, trusted: bool) -> None:
    server = authority.server("other.example" if trusted else "127.0.0.1")
    context = authority.client() if trusted else ssl.create_default_context()
    async with pooled(ssl_context=context) as (pool, _), upstream(answering, tls=server) as up:
        failure = await failing(send(pool, up.base))
        assert (failure.phase, failure.bytes_written, failure.timeout) == ("tls", False, False)
        assert not up.requests


async def test_a_provider_that_does_not_finish_the_handshake_is_given_up() -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()

    async with pooled() as (pool, _), upstream(script) as up:
        base = Base("https", up.base.host, up.base.port, "")
        failure = await failing(send(pool, base, timeouts=Timeouts(connect_s=0.04)))
        assert (failure.phase, failure.bytes_written, failure.timeout) == ("tls", False, True)


async def test_a_provider_that_speaks_no_tls_is_a_tls_failure() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with pooled() as (pool, _), upstream(script) as up:
        failure = await failing(send(pool, Base("https", up.base.host, up.base.port, "")))
        assert (failure.phase, failure.bytes_written) == ("tls", False)


async def test_an_end_of_file_over_tls_ends_a_body_only_if_nothing_else_would(authority: Authority) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        length = b"Content-Length: 10\r\n" if peer.number else b""
        await peer.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\nhello")

    server = authority.server("127.0.0.1")
    async with pooled(ssl_context=authority.client()) as (pool, _), upstream(script, tls=server) as up:
        assert await (await send(pool, up.base)).read(10) == b"hello"
        with pytest.raises(UpstreamFailure):
            await (await send(pool, up.base)).read(10)


# --- bases ---


def test_a_base_is_read_from_its_url() -> None:
    base = Base.parse("https://API.Example.com/v1/")
    assert (base.scheme, base.host, base.port, base.path, base.tls) == ("https", "api.example.com", 443, "/v1", True)
    assert base.host_header == b"api.example.com"
    assert Base.parse("http://h:8080").host_header == b"h:8080"
    assert Base.parse("http://[::1]:80/").host_header == b"[::1]"
    assert Base.parse("http://b\u00fccher.example").host == "xn--bcher-kva.example"
    assert Base.parse("http://h/a") == Base.parse("http://H/a/")
    assert hash(Base.parse("http://h/a")) == hash(Base.parse("http://H/a"))
    assert Base.parse("http://h/a") != Base.parse("http://h:81/a")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "ftp://h",
        "https://",
        "https://u:p@h",
        "https://u@h",
        "https://h?q",
        "https://h/#f",
        "https://h:x",
        "https://h/\r\na",
        "https://h /",
    ],
)
def test_what_is_no_base_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Base.parse(url)


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        (b"GET", b"/a HTTP/1.1\r\nX: y", []),
        (b"GET", b"/a b", []),
        (b"GET", b"/a", [(b"X", b"a\r\nY: b")]),
        (b"GET", b"/a", [(b"X\r\nY", b"b")]),
        (b"GE\nT", b"/a", []),
    ],
)
async def test_no_part_of_a_request_can_break_out_of_its_line(
    method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    async with pooled() as (pool, _):
        with pytest.raises(ValueError, match="line"):
            await pool.send(Base("http", "127.0.0.1", 1, ""), method, target, headers=headers, body=b"")
