"""Keeps one server alive: a thread that starts it, waits for its death, and starts it again with back-off.

The thread lives as long as the server, because on Linux the server's death signal is bound to that thread.
"""

import logging
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

from deploy.embedded.process import LOOK_AGAIN_S, Command, spawn
from deploy.embedded.status import ServerStatus, StackError

FIRST_PAUSE_S = 0.1
PAUSE_S_MAX = 5.0
STEADY_AFTER_S = 30.0
"""A server that lived this long starts again with the first pause."""
PATIENCE_S = 30.0
"""How long a server may take to follow one stop signal before the next, harder one."""
LOG_BYTES_MAX = 10_000_000
TAIL_BYTES = 4_000

log = logging.getLogger(__name__)


class Server(Protocol):
    """What the supervisor must know of a server."""

    @property
    def name(self) -> str: ...

    @property
    def log(self) -> Path: ...

    @property
    def stop_signals(self) -> tuple[signal.Signals, ...]:
        """From the clean stop to the hard one."""

    def prepare(self) -> Command:
        """Bring data and locks into a startable state; called before every start. Raises StackError or OSError."""

    def ready(self, pid: int) -> bool: ...

    def mend(self, output: str) -> str | None:
        """Repair what the output of a failed start complains of, and say what was done; None if nothing was."""


class Supervisor:
    def __init__(self, server: Server) -> None:
        self._server = server
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_since: float | None = None
        self._was_ready = False
        self._over = False
        self._restarts = 0
        self._last_error: str | None = None
        # A daemon, so that a program that ends without stopping the stack still ends; the servers follow it.
        self._thread = threading.Thread(target=self._run, name=f"nullspend-{server.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def await_ready(self, deadline: float) -> None:
        """Block until the first start succeeded; raise StackError if it failed or the deadline passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._was_ready or self._over, deadline - time.monotonic())
            if self._was_ready:
                return
            reason = self._last_error or "it takes too long, perhaps to recover from a crash: start again"
        raise StackError(f"{self._server.name} did not start: {reason} (its log: {self._server.log})")

    def status(self) -> ServerStatus:
        with self._changed:
            running = self._ready_since is not None
            pid = self._process.pid if self._process is not None else None
            return ServerStatus(self._server.name, running, self._restarts, pid, self._last_error)

    def request_stop(self) -> None:
        """Send the clean stop signal and never start the server again; returns at once."""
        with self._changed:
            self._stopping.set()
            self._signal(self._server.stop_signals[0])

    def await_stop(self) -> None:
        if self._thread.ident is None:
            return
        for harder in self._server.stop_signals[1:]:
            self._thread.join(PATIENCE_S)
            if not self._thread.is_alive():
                return
            with self._changed:
                self._signal(harder)
        self._thread.join()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            reason = self._live_once()
            lived_s = self._note_end(reason)
            if not self._was_ready:
                # The first start failed: start() reports why, and a person decides.
                break
            pause_s = FIRST_PAUSE_S if lived_s >= STEADY_AFTER_S else pause_s
            if self._stopping.wait(pause_s):
                break
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
            self._restarts += 1
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _note_end(self, reason: str) -> float:
        """Make the end visible; returns how long the server had been ready, in seconds."""
        with self._changed:
            lived_s = time.monotonic() - self._ready_since if self._ready_since is not None else 0.0
            self._process = None
            self._ready_since = None
            if not self._stopping.is_set():
                self._last_error = reason
                log.warning("%s: %s", self._server.name, reason)
        return lived_s

    def _live_once(self) -> str:
        """One life from preparation to death; returns why it ended."""
        try:
            reason, output = self._start_and_watch()
            mended = self._server.mend(output) if output else None
            if mended is None:
                return reason
            log.warning("%s: %s", self._server.name, mended)
            with self._changed:
                self._last_error = mended
            return self._start_and_watch()[0]
        except (StackError, OSError, subprocess.SubprocessError) as error:
            return str(error)
        except Exception as error:  # a bug must reach start() and the health check, not end a thread in silence
            log.exception("%s: its supervisor failed", self._server.name)
            return f"{type(error).__name__}: {error}"

    def _start_and_watch(self) -> tuple[str, str]:
        """Returns why the server ended, and what it wrote if it ended before it was ready."""
        command = self._server.prepare()
        _rotate(self._server.log)
        with self._changed:
            if self._stopping.is_set():
                return "it was stopped", ""
            with self._server.log.open("ab") as output:
                written = output.tell()
                process = self._process = spawn(command, output=output)
        try:
            while process.poll() is None and not self._server.ready(process.pid):
                time.sleep(LOOK_AGAIN_S)
        except BaseException:
            # Nobody would watch it any more.
            process.kill()
            process.wait()
            raise
        if process.poll() is not None:
            said = _tail(self._server.log, written)
            return f"it ended with {_ending(process.returncode)} before it was ready: {said}", said
        with self._changed:
            self._ready_since = time.monotonic()
            self._was_ready = True
            self._changed.notify_all()
        return f"it ended with {_ending(process.wait())}", ""


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _tail(path: Path, written: int) -> str:
    with path.open("rb") as file:
        file.seek(max(written, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").strip()


def _rotate(path: Path) -> None:
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(f"{path.name}.1"))
