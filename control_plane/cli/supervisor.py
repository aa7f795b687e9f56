"""Child processes of `nullspend up`: started, watched, restarted with back-off, and stopped in order."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_BACKOFF_FIRST_S: Final = 0.1
_BACKOFF_MAX_S: Final = 5.0
_STEADY_S: Final = 10.0


@dataclass(slots=True)
class Child:
    """One process that must be running. Its output goes to `log`, line by line, appended over restarts."""

    name: str
    module: str
    environment: Mapping[str, str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0
    started_at: float = 0.0
    backoff_s: float = _BACKOFF_FIRST_S
    next_start_at: float = 0.0
    last_exit: int | None = None

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass(slots=True)
class Supervisor:
    """Used from one thread that lives as long as its children: they are told to end if it dies."""

    children: list[Child] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def start(self, child: Child) -> None:
        child.log.parent.mkdir(parents=True, exist_ok=True)
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "control_plane.cli.child", str(os.getpid()), child.module],
                env={**os.environ, **child.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # ^C reaches the supervisor, which stops its children in order
            )
        child.started_at = time.monotonic()
        if child not in self.children:
            self.children.append(child)

    def watch(self, interval_s: float = 0.1) -> None:
        """Keeps every child running until `stopping` is set."""
        while not self.stopping.wait(interval_s):
            self.tend()

    def tend(self) -> None:
        """Starts again what has ended and whose back-off is over."""
        for child in self.children:
            self._tend(child)

    def _tend(self, child: Child) -> None:
        now = time.monotonic()
        if child.alive():
            if now - child.started_at > _STEADY_S:
                child.backoff_s = _BACKOFF_FIRST_S
            return
        if child.process is not None:
            child.last_exit, child.process = child.process.returncode, None
            child.next_start_at = now + child.backoff_s
            child.backoff_s = min(child.backoff_s * 2, _BACKOFF_MAX_S)
            print(f"{child.name} ended with {child.last_exit}; it is started again (see {child.log})", file=sys.stderr)
        if now >= child.next_start_at:
            child.restarts += 1
            self.start(child)

    def stop(self, names: tuple[str, ...], timeout_s: float) -> bool:
        """SIGTERM to the children whose name starts with one of `names`, then waits; SIGKILL when time is up."""
        chosen = [child for child in self.children if child.name.startswith(names) and child.process is not None]
        for child in chosen:
            if child.process is not None and child.alive():
                child.process.send_signal(signal.SIGTERM)
        deadline, clean = time.monotonic() + timeout_s, True
        for child in chosen:
            assert child.process is not None
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
                clean = False
        return clean
