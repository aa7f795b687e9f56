"""What an earlier launcher may have left on the data directory, and whom it must not be taken for."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.embedded import EmbeddedStack, StackError
from deploy.embedded.process import _in_proc, _in_process_table, end_all, spawn
from tests.integration.embedded.support import execute, is_alive, valkey_at, value, wait_until

NewStack = Callable[..., EmbeddedStack]


@pytest.fixture
def bystander() -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Starts unrelated processes of our own user."""
    started: list[subprocess.Popen[bytes]] = []

    def start(cwd: Path) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "600"], cwd=cwd))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_pid_file_that_names_an_unrelated_process_is_removed_and_the_process_left_alone(
    new_stack: NewStack, data_dir: Path, bystander: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    with new_stack(valkey=False) as first:
        execute(first.database_url, "CREATE TABLE kept ()")
        lines = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        sockets = Path(lines[4])
        socket_lock = (sockets / ".s.PGSQL.5432.lock").read_text().splitlines()
    innocent = bystander(Path("/"))
    lines[0] = socket_lock[0] = str(innocent.pid)
    (data_dir / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    sockets.mkdir(parents=True)
    (sockets / ".s.PGSQL.5432.lock").write_text("\n".join(socket_lock) + "\n")
    with new_stack(valkey=False) as second:
        assert value(second.database_url, "SELECT count(*) FROM kept") == 0
    assert innocent.poll() is None


def test_a_foreign_program_that_stands_in_the_data_directory_is_left_alone(
    new_stack: NewStack, data_dir: Path, bystander: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    with new_stack():
        pass
    shells = [bystander(data_dir / name) for name in ("postgres", "valkey")]
    with new_stack():
        assert [shell.poll() for shell in shells] == [None, None]
    assert [shell.poll() for shell in shells] == [None, None]


def test_servers_left_running_are_stopped_cleanly_before_new_ones_start(new_stack: NewStack, data_dir: Path) -> None:
    with new_stack() as first:
        execute(first.database_url, "CREATE TABLE kept ()")
    assert first._postgres is not None
    assert first._valkey is not None
    with (data_dir / "logs" / "left.log").open("wb") as log:
        left = [spawn(server.prepare(), output=log) for server in (first._postgres, first._valkey)]
    wait_until(lambda: first._postgres and first._postgres.ready(left[0].pid), "PostgreSQL was ready")
    wait_until(lambda: first._valkey and first._valkey.ready(left[1].pid), "Valkey was ready")
    with new_stack() as second:
        # They are zombies of this process by now, which must not stand in the way either.
        assert not any(is_alive(process.pid) for process in left)
        assert value(second.database_url, "SELECT count(*) FROM kept") == 0
        with valkey_at(second.redis_url) as valkey:
            assert valkey.ping()
    assert [process.wait() for process in left] == [0, 0]


def test_a_leftover_that_follows_no_polite_signal_is_ended_the_hard_way(
    tmp_path: Path, bystander: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    frozen, elsewhere = bystander(tmp_path), bystander(Path("/"))
    frozen.send_signal(signal.SIGSTOP)
    end_all(tmp_path, {"sleep"}, [(signal.SIGTERM, None, 0.1), (signal.SIGKILL, None, 30)])
    assert frozen.wait() == -signal.SIGKILL
    assert elsewhere.poll() is None


def test_a_leftover_that_cannot_be_ended_is_named(
    tmp_path: Path, bystander: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    stubborn = bystander(tmp_path)
    with pytest.raises(StackError, match=rf"process \[{stubborn.pid}\] still works in .*: end it"):
        end_all(tmp_path, {"sleep"}, [(None, None, 0.1)])


def test_servers_are_found_by_their_command_line_where_there_is_no_proc(shared_stack: EmbeddedStack) -> None:
    data_dir = shared_stack.data_dir
    for name, program in (("postgres", "postgres"), ("valkey", "valkey-server")):
        pid = shared_stack.status()[name].pid
        assert pid in set(_in_proc(str(data_dir / name), {program}))
        assert set(_in_process_table(str(data_dir / name), {program})) == {pid}
        assert not set(_in_process_table(str(data_dir / name[:-1]), {program}))
