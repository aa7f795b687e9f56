"""The Redis client on scripted servers (bytes) and on a real one."""

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from shared.redis_url import parse_redis_url
from shared.redis_wire import RedisClient, RedisConnection, RedisDown, RedisReplyError, encode_command
from tests.fakes.certificates import Authority
from tests.fakes.scripted_upstream import until
from tests.fakes.wire import no_loop_errors
from tests.valkey import valkey_server

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedRedis:
    """A Redis that does what a script says, and can be stopped and started again on its port."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.port = 0
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self.script(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


async def command(reader: asyncio.StreamReader) -> list[bytes]:
    line = await reader.readline()
    if not line:
        raise ConnectionResetError
    count = int(line[1:])
    parts = []
    for _ in range(count):
        size = int((await reader.readline())[1:])
        parts.append((await reader.readexactly(size + 2))[:-2])
    return parts


async def echoing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every command with its last part."""
    while True:
        part = (await command(reader))[-1]
        writer.write(b"$%d\r\n%b\r\n" % (len(part), part))


@asynccontextmanager
async def scripted(script: Script, **options: Any) -> AsyncIterator[tuple[ScriptedRedis, RedisClient]]:
    server = ScriptedRedis(script)
    await server.start()
    client = RedisClient(server.url, **options)
    with no_loop_errors():
        await client.connect()
        yield server, client
        await client.close()
        await server.stop()


# --- bytes ---


def test_commands_are_encoded_as_bulk_strings() -> None:
    assert encode_command("SET", b"k\r\n", 12) == b"*3\r\n$3\r\nSET\r\n$3\r\nk\r\n\r\n$2\r\n12\r\n"
    assert encode_command("GET", "\u00e9") == b"*2\r\n$3\r\nGET\r\n$2\r\n\xc3\xa9\r\n"
    assert encode_command("X", b"", -1) == b"*3\r\n$1\r\nX\r\n$0\r\n\r\n$2\r\n-1\r\n"


REPLIES = (
    b"+OK\r\n:42\r\n$5\r\nhe\r\no\r\n$-1\r\n*3\r\n:1\r\n$1\r\na\r\n*0\r\n-WRONGTYPE Operation not permitted\r\n"
    b"*2\r\n:7\r\n-ERR inside\r\n*-1\r\n$0\r\n\r\n"
)


async def test_replies_split_at_every_byte_are_the_same_replies() -> None:
    loop = asyncio.get_running_loop()
    for cut in range(1, len(REPLIES)):
        connection = RedisConnection(loop, timeout_s=None, on_lost=lambda _: None)
        futures = [connection.execute("X") for _ in range(9)]
        connection.data_received(REPLIES[:cut])
        connection.data_received(REPLIES[cut:])
        assert [futures[n].result() for n in (0, 1, 2, 3, 4)] == [b"OK", 42, b"he\r\no", None, [1, b"a", []]]
        error = futures[5].exception()
        assert isinstance(error, RedisReplyError)
        assert (error.code, error.message) == ("WRONGTYPE", "Operation not permitted")
        nested = futures[6].result()
        assert nested[0] == 7
        assert isinstance(nested[1], RedisReplyError)
        assert [futures[n].result() for n in (7, 8)] == [None, b""]


async def test_a_reply_nobody_asked_for_or_garbage_breaks_the_connection() -> None:
    for data in (b"+OK\r\n", b"nonsense\r\n"):
        lost: list[RedisDown] = []
        connection = RedisConnection(asyncio.get_running_loop(), timeout_s=None, on_lost=lost.append)
        future = connection.execute("X") if data != b"+OK\r\n" else None
        connection.data_received(data)
        assert len(lost) == 1
        assert "protocol" in str(lost[0])
        assert future is None or isinstance(future.exception(), RedisDown)


# --- pipelining ---


async def test_commands_of_one_turn_leave_in_one_write_and_are_answered_in_order() -> None:
    reads: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            reads.append(data)
            writer.write(b"".join(b":%d\r\n" % n for n in range(data.count(b"*2\r\n"))))

    async with scripted(script) as (_, client):
        replies = await asyncio.gather(*(client.execute("ECHO", n) for n in range(100)))
        assert replies == list(range(100))
        assert len(reads) == 1


async def test_concurrent_callers_get_their_own_replies() -> None:
    async with scripted(echoing) as (_, client):

        async def caller(name: int) -> None:
            for n in range(20):
                assert await client.execute("ECHO", f"{name}-{n}") == f"{name}-{n}".encode()

        await asyncio.gather(*(caller(name) for name in range(50)))


async def test_a_caller_that_gives_up_does_not_shift_the_replies() -> None:
    go = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        await echoing(reader, writer)

    async with scripted(script) as (_, client):
        waiting = [asyncio.create_task(_await(client.execute("ECHO", n))) for n in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        go.set()
        assert await waiting[0] == b"0"
        assert await waiting[2] == b"2"


async def _await(future: "asyncio.Future[Any]") -> Any:
    return await future


async def test_posted_commands_need_no_reader_and_their_errors_are_counted() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"-ERR no\r\n" if (await command(reader))[0] == b"BAD" else b"+OK\r\n")

    async with scripted(script) as (_, client):
        client.post("BAD")
        client.post("GOOD")
        assert await client.execute("GOOD") == b"OK"
        assert client.errors_unheard == 1


# --- down and up again ---


async def test_a_lost_connection_fails_everything_in_flight_and_comes_back() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            parts = await command(reader)
            if parts[0] == b"DIE":
                return
            if parts[0] != b"HANG":
                writer.write(b"+OK\r\n")

    async with scripted(script) as (server, client):
        in_flight = [client.execute("HANG"), client.execute("HANG"), client.execute("DIE")]
        results = await asyncio.gather(*in_flight, return_exceptions=True)
        assert all(isinstance(result, RedisDown) for result in results)
        assert not client.connected
        with pytest.raises(RedisDown):
            await client.execute("PING")
        with pytest.raises(RedisDown):
            client.post("PING")
        await until(lambda: client.connected)
        assert await client.execute("PING") == b"OK"
        assert server.connections == 2


async def test_while_redis_is_away_commands_fail_at_once_and_attempts_go_on() -> None:
    async with scripted(echoing) as (server, client):
        await server.stop()
        await until(lambda: not client.connected)
        for _ in range(3):
            with pytest.raises(RedisDown):
                await client.execute("PING")
        await asyncio.sleep(0.05)
        await server.start()
        await until(lambda: client.connected)
        assert await client.execute("PING") == b"PING"


async def test_failed_commands_nobody_awaits_make_no_noise() -> None:
    async with scripted(echoing) as (server, client):
        client.execute("ECHO", "1")
        await server.stop()
        await until(lambda: not client.connected)
        client.execute("ECHO", "2")
        await server.start()


async def test_a_silent_server_is_given_up_after_the_timeout_of_the_oldest_command() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(5):
            await command(reader)
            await asyncio.sleep(0.02)
            writer.write(b"+OK\r\n")
        await reader.read()

    async with scripted(script, timeout_s=0.04) as (server, client):
        for _ in range(5):
            assert await client.execute("PING") == b"OK"  # slow, but moving
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(client.execute("A"), client.execute("B"), return_exceptions=True)
        assert 0.03 < asyncio.get_running_loop().time() - began < 0.5
        assert all(isinstance(result, RedisDown) for result in results)
        assert "0.04 s" in str(results[0])
        await until(lambda: server.connections == 2)


async def test_connecting_to_nothing_raises_and_goes_on_trying() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    client = RedisClient(f"redis://:secret@127.0.0.1:{port}")
    with pytest.raises(RedisDown) as caught:
        await client.connect(wait_s=0.1)
    assert "not reachable" in str(caught.value)
    assert "secret" not in str(caught.value)
    server = ScriptedRedis(echoing)
    server.port = port
    await server.start()
    await client.connect()
    assert await client.execute("PING") == b"PING"
    await client.close()
    await server.stop()


async def test_hooks_run_on_every_connection_before_commands_are_let_through() -> None:
    hooked: list[bytes] = []
    async with scripted(echoing) as (server, client):

        async def hook(connection: RedisConnection) -> None:
            assert not client.connected
            hooked.append(await connection.execute("SCRIPT", "LOAD", "return 1"))

        client.on_connect(hook)
        await server.stop()
        await server.start()
        await until(lambda: client.connected)
        assert hooked == [b"return 1"]


async def test_a_hook_that_fails_is_tried_again_on_a_new_connection() -> None:
    attempts = 0
    server = ScriptedRedis(echoing)
    await server.start()
    client = RedisClient(server.url)

    async def hook(_connection: RedisConnection) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise RedisReplyError("LOADING Redis is loading the dataset in memory")

    client.on_connect(hook)
    await client.connect()
    assert attempts == 3
    await client.close()
    await server.stop()


async def test_a_primary_that_became_a_replica_is_left() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await command(reader)
            if server.connections == 1:
                writer.write(b"-READONLY You can't write against a read only replica.\r\n")
            else:
                writer.write(b"+OK\r\n")

    async with scripted(script) as (server, client):
        with pytest.raises(RedisReplyError, match="READONLY"):
            await client.execute("SET", "a", 1)
        await until(lambda: server.connections == 2 and client.connected)
        assert await client.execute("SET", "a", 1) == b"OK"


async def test_a_subscription_that_broke_is_renewed_and_the_gap_reported() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            parts = await command(reader)
            if parts[0] == b"SUBSCRIBE":
                writers.append(writer)
                writer.write(
                    b"*3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\n1\r\n"
                )
            else:
                writer.write(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")

    messages: list[bytes] = []
    gaps: list[int] = []
    async with scripted(script) as (_, client):
        await client.subscribe("ch", messages.append, on_gap=lambda: gaps.append(len(messages)))
        await until(lambda: messages == [b"1"])
        assert gaps == []
        writers[0].transport.abort()
        await until(lambda: messages == [b"1", b"1"])
        await until(lambda: len(gaps) == 1)


async def test_a_subscription_without_a_server_raises_and_goes_on_trying() -> None:
    server = ScriptedRedis(echoing)
    await server.start()
    await server.stop()
    client = RedisClient(server.url)
    messages: list[bytes] = []
    with pytest.raises(RedisDown):
        await client.subscribe("ch", messages.append)
    await client.close()


# --- a real server ---


@pytest.fixture(scope="module")
def valkey() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with valkey_server("--port", str(port), "--bind", "127.0.0.1") as path:
        yield f"{path}|{port}"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_real_server_answers_over_tcp_and_a_unix_socket_on_the_chosen_database(valkey: str, kind: str) -> None:
    path, port = valkey.split("|")
    client = RedisClient(f"redis://127.0.0.1:{port}/3" if kind == "tcp" else f"unix://{path}?db=3")
    await client.connect()
    assert await client.execute("SET", f"{kind}:k", b"\x00\xff\r\n") == b"OK"
    assert await client.execute("GET", f"{kind}:k") == b"\x00\xff\r\n"
    assert b"db=3" in await client.execute("CLIENT", "INFO")
    big = os.urandom(2_000_000)
    await client.execute("SET", "big", big)
    assert await client.execute("GET", "big") == big
    with pytest.raises(RedisReplyError) as caught:
        await client.execute("LPUSH", "big", 1)
    assert caught.value.code == "WRONGTYPE"
    sha = await client.execute("SCRIPT", "LOAD", "return {KEYS[1], ARGV[1]}")
    assert await client.execute("EVALSHA", sha, 1, "k", 7) == [b"k", b"7"]
    await client.close()


async def test_a_real_subscription_hears_every_message(valkey: str) -> None:
    client = RedisClient(f"redis://127.0.0.1:{valkey.split('|')[1]}")
    await client.connect()
    messages: list[bytes] = []
    await client.subscribe("changes", messages.append)
    for n in range(50):
        await client.execute("PUBLISH", "changes", n)
    await until(lambda: len(messages) == 50)
    assert messages == [b"%d" % n for n in range(50)]
    await client.close()


async def test_a_server_that_asks_for_a_password_gets_it() -> None:
    with valkey_server() as path:
        client = RedisClient(f"unix://{path}")
        await client.connect()
        await client.execute("CONFIG", "SET", "requirepass", "p@ss/word")
        await client.close()
        client = RedisClient(f"unix://:p%40ss%2Fword@{path}")
        await client.connect()
        assert await client.execute("PING") == b"PONG"
        await client.close()
        client = RedisClient(f"unix://default:p%40ss%2Fword@{path}")
        await client.connect()
        await client.close()
        wrong = RedisClient(f"unix://:nope@{path}")
        with pytest.raises(RedisDown, match="WRONGPASS"):
            await wrong.connect(wait_s=0.2)
        await wrong.close()


async def test_a_killed_server_is_down_within_the_same_turn() -> None:
    with valkey_server() as path:
        client = RedisClient(f"unix://{path}")
        await client.connect()
        info = await client.execute("INFO", "server")
        pid = int(info.split(b"process_id:")[1].split(b"\r\n")[0])
        blocked = client.execute("BLPOP", "nothing", 0)
        await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RedisDown):
            await asyncio.wait_for(blocked, 1)
        assert not client.connected
        await client.close()


async def test_a_rediss_server_is_verified(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = ScriptedRedis(echoing)
    await server.start(authority.server("127.0.0.1"))
    url = server.url.replace("redis://", "rediss://")
    client = RedisClient(f"{url}?ssl_ca_certs={authority.ca_file}")
    await client.connect()
    replies = await asyncio.gather(*(client.execute("ECHO", n) for n in range(10)))
    assert replies == [b"%d" % n for n in range(10)]
    await client.close()
    stranger = RedisClient(url)
    with pytest.raises(RedisDown, match="CERTIFICATE_VERIFY_FAILED"):
        await stranger.connect(wait_s=0.2)
    await stranger.close()
    await server.stop()


# --- URLs ---


def test_urls_are_read_as_redis_py_reads_them() -> None:
    address = parse_redis_url("redis://h")
    assert (address.host, address.port, address.database, address.password, address.tls) == ("h", 6379, 0, None, False)
    address = parse_redis_url("rediss://user:p%40w@h:7000/2?ssl_cert_reqs=none")
    assert (address.username, address.password, address.port, address.database) == ("user", "p@w", 7000, 2)
    assert (address.tls, address.tls_verified) == (True, False)
    address = parse_redis_url("unix://:pw@/run/redis%20dir/s.sock?db=4")
    assert (address.path, address.password, address.database) == ("/run/redis dir/s.sock", "pw", 4)
    assert parse_redis_url("redis://h?db=5").database == 5
    assert parse_redis_url("redis://[::1]:1/").host == "::1"


@pytest.mark.parametrize("url", ["", "http://h", "redis://h/x", "unix://?db=1", "redis://h:port"])
def test_what_is_no_redis_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_redis_url(url)
    assert not url or url not in str(caught.value)
