"""Starting programs under an identity, and finding and ending those that an earlier launcher left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from deploy.embedded import launch
from deploy.embedded.status import StackError

LINUX = sys.platform == "linux"
LOOK_AGAIN_S = 0.01
PASSED_ON = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The environment that programs inherit."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a program runs as: ourselves, another user in its own eyes only, or really another user."""

    kind: Literal["self", "namespace", "user"]
    uid: int
    gid: int

    @property
    def file_uid(self) -> int:
        """Who owns the files it writes, as the file system sees it."""
        return self.uid if self.kind == "user" else os.geteuid()

    @property
    def file_gid(self) -> int:
        return self.gid if self.kind == "user" else os.getegid()

    @staticmethod
    def ourselves() -> "Identity":
        return Identity("self", os.geteuid(), os.getegid())


@dataclass(frozen=True, slots=True)
class Command:
    executable: Path
    arguments: tuple[str, ...]
    identity: Identity
    cwd: Path
    name: str | None = None
    """argv[0], for binaries that choose their role by it; the executable's path when None."""
    death_signal: signal.Signals | None = signal.SIGKILL
    """What it receives when the launcher dies; None for what ends at once anyway."""
    reach: Path | None = None
    """A directory it must be able to enter, or the launch fails."""


@dataclass(frozen=True, slots=True)
class Finished:
    code: int
    output: str


def spawn(command: Command, *, output: IO[bytes] | int, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a program whose life is tied to the calling thread (Linux), in a session of its own."""
    argv = [command.name or str(command.executable), *command.arguments]
    executable = str(command.executable)
    identity, death_signal = command.identity, command.death_signal
    if identity.kind != "self" or (LINUX and death_signal is not None):
        argv = [
            *(sys.executable, "-I", "-S", launch.__file__),
            *(str(os.getpid()), str(int(death_signal or 0))),
            *(identity.kind, str(identity.uid), str(identity.gid)),
            *(str(command.reach or ""), executable, *argv),
        ]
        executable = sys.executable
    return subprocess.Popen(  # noqa: S603  # no shell; the programs are the servers and their tools
        argv,
        executable=executable,
        cwd=command.cwd,
        env=_environment(),
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        # An interrupt typed at the terminal goes to the application, which then stops its servers in order.
        start_new_session=True,
    )


def run(command: Command, *, text: str = "", timeout_s: float = 120) -> Finished:
    """Run a program to its end, feeding it `text`."""
    with spawn(command, output=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        try:
            output, _ = process.communicate(text.encode(), timeout=timeout_s)
        except BaseException:
            process.kill()
            raise
    return Finished(process.returncode, output.decode(errors="replace").strip())


def _environment() -> dict[str, str]:
    # PGDATA, PGOPTIONS and the like are meant for other servers, and the launcher's API keys for none of them.
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # Messages are parsed, in English.
    return {**kept, "LC_ALL": "C"}


def living_in(directory: Path, names: Collection[str]) -> set[int]:
    """Processes called one of `names` that work in `directory`; zombies and foreign programs do not count."""
    found = _in_proc if LINUX else _in_process_table
    return set(found(os.path.realpath(directory), names))


def _in_proc(directory: str, names: Collection[str]) -> Iterator[int]:
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if Path(entry.path, "comm").read_text().strip() not in names:
                continue
            if _works_in(entry.path, directory):
                yield int(entry.name)
        except (OSError, UnicodeDecodeError):
            # It ended meanwhile, or it is a zombie, or it belongs to someone whose servers are not ours.
            continue


def _works_in(entry: str, directory: str) -> bool:
    try:
        return Path(entry, "cwd").readlink() == Path(directory)
    except PermissionError:
        # Root without CAP_SYS_PTRACE, as in most containers: the command line names the directory too.
        return _names(Path(entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"), directory)


def _in_process_table(directory: str, names: Collection[str]) -> Iterator[int]:
    listing = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True)  # noqa: S607  # where ps lives differs between systems
    for line in listing.stdout.splitlines():
        pid, _, words = line.strip().partition(" ")
        program = words.strip().partition(" ")[0]
        if any(program.endswith(name) for name in names) and _names(words, directory):
            yield int(pid)


def _names(words: str, directory: str) -> bool:
    return f" {directory} " in f"{words} " or f" {directory}{os.sep}" in words


def end_all(
    directory: Path, names: Collection[str], steps: Collection[tuple[signal.Signals | None, set[int] | None, float]]
) -> None:
    """End what works in `directory`: each step is a signal, whom to send it (None: all), and how long to wait."""
    for number, receivers, patience_s in steps:
        living = living_in(directory, names)
        for pid in living & receivers if receivers is not None else living:
            if number is not None:
                _send(pid, number)
        if _all_gone(directory, names, patience_s):
            return
    left = sorted(living_in(directory, names))
    raise StackError(f"process {left} still works in {directory} and does not end: end it, then start again")


def _all_gone(directory: Path, names: Collection[str], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while living_in(directory, names):
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_AGAIN_S)
    return True


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise StackError(
            f"process {pid} of another user already runs on this data directory: stop it, then start again"
        ) from error
