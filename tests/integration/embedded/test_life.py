"""A stack is started, used, stopped and started again; what it promises about passwords, sockets and ownership."""

import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
import redis

from deploy.embedded import EmbeddedStack, StackError
from deploy.embedded.unsupported import EmbeddedStack as WindowsStack
from tests.integration.embedded.support import (
    Launcher,
    command_line,
    execute,
    is_alive,
    query,
    servers_below,
    valkey_at,
    value,
    wait_until,
)

NewStack = Callable[..., EmbeddedStack]


def test_both_servers_answer_and_keep_what_they_were_told_over_a_restart(new_stack: NewStack, data_dir: Path) -> None:
    with new_stack(fresh=True) as first:
        execute(first.database_url, "CREATE TABLE kept (word text); INSERT INTO kept VALUES ('money')")
        with valkey_at(first.redis_url) as valkey:
            valkey.set("kept", "money")
        urls = first.database_url, first.redis_url
        assert [status.running for status in first.status().values()] == [True, True]
    assert [status.running for status in first.status().values()] == [False, False]
    assert not servers_below(data_dir)
    with new_stack() as second:
        assert (second.database_url, second.redis_url) == urls
        assert value(second.database_url, "SELECT word FROM kept") == "money"
        with valkey_at(second.redis_url) as valkey:
            assert valkey.get("kept") == "money"


def test_a_stop_is_clean_and_harmless_when_repeated_and_the_stack_can_start_again(
    stack: EmbeddedStack, data_dir: Path
) -> None:
    stack.stop()
    stack.stop()
    assert "database system is shut down" in (data_dir / "logs" / "postgres.log").read_text()
    assert "ready to exit" in (data_dir / "logs" / "valkey.log").read_text()
    assert not (data_dir / "postgres" / "postmaster.pid").exists()
    assert not (data_dir / "run").exists()
    stack.start()
    assert value(stack.database_url, "SELECT 1") == 1


def test_the_role_owns_its_database_and_row_level_security_binds_it(shared_stack: EmbeddedStack) -> None:
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'nullspend'"
    assert value(shared_stack.database_url, owner) == "nullspend"
    assert not value(
        shared_stack.database_url, "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
    )
    execute(shared_stack.database_url, "CREATE EXTENSION citext; CREATE EXTENSION pg_trgm; CREATE EXTENSION btree_gist")
    execute(shared_stack.database_url, "CREATE ROLE reader LOGIN PASSWORD 'secret'")
    assert value(shared_stack.database_url, "SELECT uuidv7() IS NOT NULL AND lower('Ä') = 'ä'")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        value(shared_stack.database_url.replace("//nullspend:", "//postgres:"), "SELECT 1")


def test_a_wrong_password_opens_neither_server(shared_stack: EmbeddedStack) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        value(_with_password(shared_stack.database_url, "wrong"), "SELECT 1")
    with valkey_at(_with_password(shared_stack.redis_url, "wrong")) as valkey, pytest.raises(redis.AuthenticationError):
        valkey.ping()


def test_passwords_are_private_files_and_in_no_command_line(shared_stack: EmbeddedStack) -> None:
    for name, url in (("postgres", shared_stack.database_url), ("valkey", shared_stack.redis_url)):
        file = shared_stack.data_dir / f"{name}.password"
        password = file.read_text().strip()
        assert f":{password}@" in url
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        pid = shared_stack.status()[name].pid
        assert pid is not None
        assert password not in " ".join(command_line(pid))
        assert password not in Path(f"/proc/{pid}/environ").read_text()
    assert stat.S_IMODE((shared_stack.data_dir / "valkey" / "valkey.conf").stat().st_mode) == 0o600


def test_a_lost_database_password_is_replaced(new_stack: NewStack, data_dir: Path) -> None:
    with new_stack(valkey=False) as first:
        execute(first.database_url, "CREATE TABLE kept ()")
        old_url = first.database_url
    (data_dir / "postgres.password").unlink()
    with new_stack(valkey=False) as second:
        assert second.database_url != old_url
        assert value(second.database_url, "SELECT count(*) FROM kept") == 0


def test_neither_server_listens_on_tcp(shared_stack: EmbeddedStack) -> None:
    for status in shared_stack.status().values():
        held = {str(entry.readlink()) for entry in Path(f"/proc/{status.pid}/fd").iterdir()}
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/{status.pid}/net/{table}").read_text().splitlines()[1:]
            assert not held & {f"socket:[{line.split()[9]}]" for line in lines}


def test_valkey_persists_every_second_and_never_evicts(shared_stack: EmbeddedStack) -> None:
    with valkey_at(shared_stack.redis_url) as valkey:
        settings = valkey.config_get("save", "appendonly", "appendfsync", "maxmemory-policy", "port", "unixsocketperm")
        assert valkey.eval("return redis.call('SET', KEYS[1], ARGV[1])", 1, "script", "ran") == "OK"
    assert settings == {
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "unixsocketperm": "700",
    }


def test_an_interrupt_at_the_terminal_does_not_reach_the_servers_first(shared_stack: EmbeddedStack) -> None:
    for status in shared_stack.status().values():
        assert status.pid is not None
        assert os.getsid(status.pid) == status.pid


def test_servers_outlive_the_thread_that_started_the_stack(new_stack: NewStack) -> None:
    made = new_stack()
    starter = threading.Thread(target=made.start)
    starter.start()
    starter.join()
    assert value(made.database_url, "SELECT 1") == 1
    with valkey_at(made.redis_url) as valkey:
        assert valkey.ping()
    assert [status.restarts for status in made.status().values()] == [0, 0]


@pytest.mark.parametrize(("left_out", "kept"), [("postgres", "valkey"), ("valkey", "postgres")])
def test_either_server_can_be_left_out(new_stack: NewStack, data_dir: Path, left_out: str, kept: str) -> None:
    with new_stack(**{left_out: False}) as partial:
        assert list(partial.status()) == [kept]
        assert not (data_dir / left_out).exists()


def test_a_second_launcher_on_the_same_directory_is_refused_and_told_who_holds_it(
    shared_stack: EmbeddedStack,
) -> None:
    with pytest.raises(StackError, match=rf"already in use by another NullSpend \(process {os.getpid()}\): stop"):
        EmbeddedStack(shared_stack.data_dir).start()
    launcher = Launcher(shared_stack.data_dir, {})
    assert f"(process {os.getpid()})" in launcher.listen()["error"]
    launcher.close()
    assert value(shared_stack.database_url, "SELECT 1") == 1


def test_a_data_directory_that_cannot_be_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StackError, match=r"cannot be made .*: choose another one"):
        EmbeddedStack(tmp_path / "file" / "data").start()


def test_a_forked_child_neither_stops_the_servers_nor_keeps_the_directory(
    new_launcher: Callable[..., Launcher],
) -> None:
    launcher = new_launcher().await_ready()
    child = int(launcher.ask("fork")["child"])
    try:
        assert value(launcher.told["database_url"], "SELECT 1") == 1
        launcher.kill()
        assert is_alive(child)
        assert new_launcher().await_ready().ask("stop") == {"stopped": True}
    finally:
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not is_alive(child), "the child had ended")


def test_a_launcher_that_forgets_to_stop_still_ends_and_its_servers_with_it(
    new_launcher: Callable[..., Launcher],
) -> None:
    launcher = new_launcher().await_ready()
    launcher.process.send_signal(signal.SIGINT)
    launcher.process.wait()
    wait_until(lambda: not any(map(is_alive, launcher.server_pids)), "the servers followed")


def test_windows_users_are_told_what_to_do_instead(data_dir: Path) -> None:
    with pytest.raises(StackError, match="use WSL, or set NULLSPEND_DATABASE_URL and NULLSPEND_REDIS_URL"):
        WindowsStack(data_dir)


def test_many_clients_can_work_at_once(shared_stack: EmbeddedStack) -> None:
    async def hold(outer: asyncpg.Connection) -> int:
        inner = await asyncpg.connect(shared_stack.database_url)
        try:
            return int(await inner.fetchval("SELECT 1") + await outer.fetchval("SELECT 1"))
        finally:
            await inner.close()

    assert query(shared_stack.database_url, hold) == 2


def _with_password(url: str, password: str) -> str:
    before, _, after = url.partition("@")
    return f"{before.rpartition(':')[0]}:{password}@{after}"
