"""Whatever is killed, everything acknowledged is still there, nothing is left running, and the state is visible."""

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import redis

from deploy.embedded import EmbeddedStack, StackError
from tests.integration.embedded.support import (
    Launcher,
    execute,
    is_alive,
    servers_below,
    valkey_at,
    value,
    wait_until,
)

NewStack = Callable[..., EmbeddedStack]
NewLauncher = Callable[..., Launcher]

SERVER_IS_GONE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class PostgresWriter:
    """Commits numbers one by one until the server is gone; `acknowledged` counts the commits that returned."""

    def __init__(self, url: str) -> None:
        self.acknowledged = 0
        self._url = url
        execute(url, "CREATE TABLE written (number int)")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()))
        self._thread.start()
        wait_until(lambda: self.acknowledged > 50, "some commits were acknowledged")

    async def _write(self) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            while True:
                await connection.execute("INSERT INTO written VALUES ($1)", self.acknowledged + 1)
                self.acknowledged += 1
        except SERVER_IS_GONE:
            connection.terminate()

    def assert_all_is_there(self, url: str) -> None:
        self._thread.join()
        count = value(url, f"SELECT count(DISTINCT number) FROM written WHERE number <= {self.acknowledged}")
        assert count == self.acknowledged


class ValkeyWriter:
    """Pushes numbers one by one until the server is gone; `acknowledged` counts the replies."""

    def __init__(self, url: str) -> None:
        self.acknowledged = 0
        self._url = url
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        wait_until(lambda: self.acknowledged > 500, "some writes were acknowledged")

    def _write(self) -> None:
        with redis.Redis.from_url(self._url, retry=None, single_connection_client=True) as valkey:
            try:
                while True:
                    self.acknowledged = valkey.rpush("written", self.acknowledged + 1)
            except (redis.RedisError, OSError):
                return

    def assert_all_is_there(self, url: str) -> None:
        self._thread.join()
        with valkey_at(url) as valkey:
            kept = valkey.lrange("written", 0, self.acknowledged - 1)
        assert kept == [str(number) for number in range(1, self.acknowledged + 1)]


def kill_server(stack: EmbeddedStack, name: str) -> None:
    pid = stack.status()[name].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def wait_for_restart(stack: EmbeddedStack, name: str, restarts: int) -> None:
    wait_until(lambda: stack.status()[name].running and stack.status()[name].restarts >= restarts, f"{name} came back")


def test_a_killed_postgres_comes_back_with_everything_acknowledged(stack: EmbeddedStack) -> None:
    writer = PostgresWriter(stack.database_url)
    kill_server(stack, "postgres")
    wait_for_restart(stack, "postgres", 1)
    writer.assert_all_is_there(stack.database_url)
    status = stack.status()["postgres"]
    assert status.last_error == "it ended with SIGKILL"
    assert stack.status()["valkey"].restarts == 0


def test_a_killed_valkey_comes_back_with_everything_acknowledged(new_stack: NewStack) -> None:
    with new_stack(postgres=False) as stack:
        writer = ValkeyWriter(stack.redis_url)
        kill_server(stack, "valkey")
        wait_for_restart(stack, "valkey", 1)
        writer.assert_all_is_there(stack.redis_url)
        assert stack.status()["valkey"].last_error == "it ended with SIGKILL"


def test_a_server_that_is_killed_again_and_again_comes_back_each_time(new_stack: NewStack) -> None:
    with new_stack(postgres=False) as stack:
        for kills in range(1, 4):
            kill_server(stack, "valkey")
            wait_for_restart(stack, "valkey", kills)
        with valkey_at(stack.redis_url) as valkey:
            assert valkey.ping()


def test_a_postgres_killed_during_a_long_query_comes_back(new_stack: NewStack) -> None:
    stack = new_stack(valkey=False)
    stack.start()

    async def scenario() -> None:
        connection = await asyncpg.connect(stack.database_url)
        busy = asyncio.create_task(connection.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
        await asyncio.sleep(0.2)
        kill_server(stack, "postgres")
        with pytest.raises(SERVER_IS_GONE):
            await busy
        connection.terminate()

    asyncio.run(scenario())
    wait_for_restart(stack, "postgres", 1)
    assert value(stack.database_url, "SELECT 1") == 1


def test_a_server_that_cannot_start_again_is_tried_with_back_off_and_its_reason_is_visible(
    new_stack: NewStack, data_dir: Path
) -> None:
    with new_stack(postgres=False) as stack:
        password = data_dir / "valkey.password"
        kept = password.read_text()
        password.write_text("not a password!")
        kill_server(stack, "valkey")
        wait_until(lambda: stack.status()["valkey"].restarts >= 2, "it was tried twice")
        status = stack.status()["valkey"]
        assert (status.running, status.pid) == (False, None)
        assert "does not hold a password: remove it" in (status.last_error or "")
        password.write_text(kept)
        wait_until(lambda: stack.status()["valkey"].running, "it came back by itself")


def test_nothing_is_restarted_after_a_stop(new_stack: NewStack, data_dir: Path) -> None:
    stack = new_stack(postgres=False)
    stack.start()
    kill_server(stack, "valkey")
    stack.stop()
    status = stack.status()["valkey"]
    assert (status.running, status.pid) == (False, None)
    assert not servers_below(data_dir)
    assert not any(supervisor._thread.is_alive() for supervisor in stack._supervisors)


def test_a_killed_launcher_takes_its_servers_along_and_loses_nothing(new_launcher: NewLauncher) -> None:
    first = new_launcher().await_ready()
    in_postgres, in_valkey = PostgresWriter(first.told["database_url"]), ValkeyWriter(first.told["redis_url"])
    first.kill()
    second = new_launcher().await_ready()
    assert not any(map(is_alive, first.server_pids))
    in_postgres.assert_all_is_there(second.told["database_url"])
    in_valkey.assert_all_is_there(second.told["redis_url"])


def test_launcher_and_servers_killed_at_once_lose_nothing(new_launcher: NewLauncher) -> None:
    first = new_launcher().await_ready()
    in_postgres, in_valkey = PostgresWriter(first.told["database_url"]), ValkeyWriter(first.told["redis_url"])
    for pid in (*first.server_pids, first.pid):
        os.kill(pid, signal.SIGKILL)
    first.process.wait()
    second = new_launcher().await_ready()
    in_postgres.assert_all_is_there(second.told["database_url"])
    in_valkey.assert_all_is_there(second.told["redis_url"])


def test_a_launcher_killed_while_it_makes_the_cluster_leaves_nothing_that_is_ever_started(
    new_launcher: NewLauncher, data_dir: Path
) -> None:
    first = new_launcher(fresh=True)
    wait_until((data_dir / "postgres.initializing" / "base").exists, "initdb was at work")
    first.kill()
    wait_until(lambda: not servers_below(data_dir), "initdb had followed its launcher")
    assert not (data_dir / "postgres").exists()
    second = new_launcher().await_ready()
    assert value(second.told["database_url"], "SELECT 1") == 1
    assert not (data_dir / "postgres.initializing").exists()


def newest_increment(data_dir: Path) -> Path:
    return max((data_dir / "valkey" / "appendonlydir").glob("*.incr.aof"))


def written_and_stopped(stack: EmbeddedStack) -> None:
    stack.start()
    with valkey_at(stack.redis_url) as valkey:
        valkey.set("first", "kept")
        valkey.set("last", "kept too")
    stack.stop()


def test_garbage_at_the_end_of_the_append_only_file_is_cut_off_and_kept_aside(
    new_stack: NewStack, data_dir: Path
) -> None:
    written_and_stopped(new_stack(postgres=False))
    whole = newest_increment(data_dir).read_bytes()
    with newest_increment(data_dir).open("ab") as file:
        file.write(b"\x00\xffno command\r\n")
    with new_stack(postgres=False) as stack:
        with valkey_at(stack.redis_url) as valkey:
            assert valkey.mget("first", "last") == ["kept", "kept too"]
        told = stack.status()["valkey"].last_error or ""
        assert "the last 14 bytes" in told
        (copy,) = (data_dir / "valkey" / "damaged").iterdir()
        assert str(copy) in told
        assert copy.read_bytes() == whole + b"\x00\xffno command\r\n"


def test_garbage_is_also_cut_off_when_a_running_server_dies(new_stack: NewStack, data_dir: Path) -> None:
    with new_stack(postgres=False) as stack:
        with valkey_at(stack.redis_url) as valkey:
            valkey.set("first", "kept")
        with newest_increment(data_dir).open("ab") as file:
            file.write(bytes(4096))
        kill_server(stack, "valkey")
        wait_for_restart(stack, "valkey", 1)
        with valkey_at(stack.redis_url) as valkey:
            assert valkey.get("first") == "kept"
        assert "the last 4096 bytes" in (stack.status()["valkey"].last_error or "")


def test_a_torn_end_of_the_append_only_file_heals_itself(new_stack: NewStack, data_dir: Path) -> None:
    written_and_stopped(new_stack(postgres=False))
    with newest_increment(data_dir).open("r+b") as file:
        file.truncate(newest_increment(data_dir).stat().st_size - 3)
    with new_stack(postgres=False) as stack, valkey_at(stack.redis_url) as valkey:
        assert valkey.mget("first", "last") == ["kept", None]
        assert stack.status()["valkey"].last_error is None


def test_damage_that_cannot_be_cut_off_is_refused_with_the_servers_own_words(
    new_stack: NewStack, data_dir: Path
) -> None:
    written_and_stopped(new_stack(postgres=False))
    for base in (data_dir / "valkey" / "appendonlydir").glob("*.base.rdb"):
        base.write_bytes(b"no snapshot at all")
    with pytest.raises(StackError, match=r"valkey did not start: .*before it was ready: (?s:.*)valkey\.log\)"):
        new_stack(postgres=False).start()


def test_a_failed_start_of_one_server_stops_the_other_and_frees_the_directory(
    new_stack: NewStack, data_dir: Path
) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    (data_dir / "postgres" / "notes.txt").write_text("mine")
    with pytest.raises(StackError, match="holds files that are no PostgreSQL cluster: choose another"):
        new_stack().start()
    assert not servers_below(data_dir)
    shutil.rmtree(data_dir / "postgres")
    new_stack().start()
