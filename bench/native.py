"""The C programs of the bench: compiled into a temporary directory, started on the core of the rest."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROXY_CORE: Final = 0
REST_CORE: Final = 1
WARM_UP_S: Final = 0.3
_SOURCES: Final = Path(__file__).parent / "native"


class BenchError(Exception):
    """The bench cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of the load generator saw. `counted` completed in the window, `total` at all."""

    counted: int
    total: int
    errors: int
    reconnects: int
    events: int
    seconds: float
    p50_us: float
    p90_us: float
    p99_us: float
    max_us: float


@dataclass(frozen=True, slots=True)
class Programs:
    load: Path
    upstream: Path

    @classmethod
    def compile(cls, folder: Path) -> "Programs":
        programs = cls(folder / "load", folder / "upstream")
        for program in (programs.load, programs.upstream):
            source = _SOURCES / f"{program.name}.c"
            subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True)
        return programs

    def run_load(self, port: int, request: Path, *, connections: int, seconds: float) -> Load:
        """Raises BenchError on any reply that is not a complete 200."""
        command = [*on_core(REST_CORE), str(self.load), str(port), str(connections), str(WARM_UP_S), str(seconds)]
        done = subprocess.run([*command, str(request)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"the load generator failed: {done.stderr}")
        load = Load(**json.loads(done.stdout))
        if load.errors:
            raise BenchError(
                f"{load.errors} of {load.total + load.errors} replies were errors, the first: {done.stderr}"
            )
        return load


def on_core(core: int) -> list[str]:
    return ["taskset", "-c", str(core)]


def require_machine(*, nginx: bool) -> None:
    """Raises BenchError that says what is missing and how to install it."""
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchError("two cores are needed: one for the proxy, one for the rest")
    wanted = {"gcc": "gcc", "taskset": "util-linux"} | ({"nginx": "nginx-light"} if nginx else {})
    missing = [package for tool, package in wanted.items() if shutil.which(tool) is None]
    if missing:
        names = " ".join(missing)
        raise BenchError(f"missing tools. On Debian or Ubuntu: apt-get install {names}. On Alpine: apk add {names}")


@contextmanager
def started(command: list[str], *, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that ends with the block; its standard output is ours to read, the rest goes to `log`."""
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def upstream(programs: Programs, folder: Path, *, events: int, pace_us: int) -> Iterator[int]:
    """The port of a running provider."""
    command = [*on_core(REST_CORE), str(programs.upstream), str(events), str(pace_us)]
    with started(command, log=folder / "upstream.log") as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
