"""The whole product as its users start it: `nullspend up` in a process of its own, its commands and its processes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import httpx

from tests.support.waiting import free_port

NULLSPEND: Final = Path(sys.executable).with_name("nullspend")
OPS_SECRET: Final = "operations"
BODY_BYTES_MAX: Final = 200_000
"""Of the instance that all tests share."""
READY_S: Final = 100.0
_STOP_S: Final = 60.0
_RUNNING: Final = "NullSpend is running"
_SERIES: Final = re.compile(
    r'^nullspend_(calls|refusals)_total\{worker="(\d+)"(?:,surface="[^"]*")?,(?:outcome|code)="(\w+)"\} (\d+)$'
)
_WORKER: Final = re.compile(r'worker="(\d+)"')
_SCRAPES_MAX: Final = 200

Part = Literal["worker", "control plane", "postgres", "valkey"]
_COMMANDS: Final[dict[Part, re.Pattern[str]]] = {
    "worker": re.compile(r"control_plane\.cli\.child \d+ data_plane$"),
    "control plane": re.compile(r"control_plane\.cli\.child \d+ control_plane$"),
    "postgres": re.compile(r"/postgres -D "),
    "valkey": re.compile(r"/valkey-server "),
}
PARTS: Final = tuple(_COMMANDS)
Counts = dict[str, dict[str, int]]
"""Per worker: how many calls ended with an outcome, how many were refused with a code."""


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Ours without any setting of the product's but these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NULLSPEND_")} | dict(settings)


def command(*arguments: str, settings: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """One command of the product, from start to end."""
    return subprocess.run(
        [str(NULLSPEND), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=READY_S,
        env=environment(settings or {}) | {"COLUMNS": "200"},
    )


class Product:
    """One instance. `start` blocks until it serves; `stop` gives back the exit code."""

    def __init__(self, data: Path, settings: Mapping[str, str], *, workers: int = 2) -> None:
        self.data = data
        self.settings = {"NULLSPEND_OPS_SECRET": OPS_SECRET, **settings}
        self.workers = workers
        self.port, self.control_port = free_port(), free_port()
        self._log = data.with_name(f"{data.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def credentials(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.data / "credentials.json").read_text())
        return found

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def control_url(self) -> str:
        return f"http://127.0.0.1:{self.control_port}"

    def start(self) -> None:
        arguments = ["--data", str(self.data), "--workers", str(self.workers)]
        arguments += ["--port", str(self.port), "--control-port", str(self.control_port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(NULLSPEND), "up", *arguments], stdout=log, stderr=log, env=environment(self.settings)
            )
        deadline = time.monotonic() + READY_S
        while _RUNNING not in self.output:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the product did not start:\n{self.output}")
            time.sleep(0.05)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(_STOP_S)

    def stop(self) -> int:
        self.signal()
        return self.wait()

    def kill(self) -> None:
        """For a product that would not stop; its children follow it."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def pids(self, part: Part) -> list[int]:
        """The processes of one part that are children of this instance, and of no other."""
        found = []
        for line in _ps("pid=,ppid=,args="):
            pid, parent, args = line.split(None, 2)
            if int(parent) == self.pid and _COMMANDS[part].search(args.strip()):
                found.append(int(pid))
        return sorted(found)

    def counts(self) -> Counts:
        """What every worker counted. A scrape reaches whichever worker the kernel picks, so it is repeated."""
        found: dict[str, str] = {}
        none_kept = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(limits=none_kept, trust_env=False, headers={"x-ops-health-secret": OPS_SECRET}) as client:
            for _ in range(_SCRAPES_MAX):
                reply = client.get(f"{self.url}/metrics").raise_for_status()
                worker = _WORKER.search(reply.text)
                assert worker is not None
                found[worker[1]] = reply.text
                if len(found) == self.workers:
                    return {worker: _counted(text) for worker, text in sorted(found.items())}
        raise AssertionError(f"only the workers {sorted(found)} answered")

    def audit(self) -> tuple[int, Any]:
        """The exit code of `nullspend ledger audit` and its report."""
        done = command("ledger", "audit", "--data", str(self.data), "--json")
        assert done.returncode in {0, 1}, done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)


def _counted(text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in text.splitlines():
        if series := _SERIES.match(line):
            counts[series[3]] = counts.get(series[3], 0) + int(series[4])
    return counts


def running(pids: Sequence[int]) -> list[int]:
    """Those that have not ended. One that waits for its parent to notice has."""
    states = {int(pid): state for pid, state in (line.split() for line in _ps("pid=,stat="))}
    return [pid for pid in pids if not states.get(pid, "Z").startswith("Z")]


def _ps(columns: str) -> list[str]:
    command = ["ps", "-ww", "-eo", columns]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def risen(before: Counts, after: Counts, name: str) -> list[int]:
    """By how much each worker's count of an outcome or a code has risen."""
    return [after[worker].get(name, 0) - before[worker].get(name, 0) for worker in sorted(after)]
