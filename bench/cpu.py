"""CPU time from /proc: of a tree of processes, of the cores, and what the hypervisor took."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    parent: int
    cpu_s: float
    """User and system, its threads included, its ended children not."""
    command: str


@dataclass(frozen=True, slots=True)
class CoreTimes:
    busy_s: float
    steal_s: float
    total_s: float

    def since(self, earlier: "CoreTimes") -> "CoreTimes":
        return CoreTimes(self.busy_s - earlier.busy_s, self.steal_s - earlier.steal_s, self.total_s - earlier.total_s)


def processes() -> dict[int, Process]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = _read(entry)
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
    return found


def _read(entry: Path) -> Process:
    # The name is in parentheses and may hold anything; the numbers start after the last one.
    values = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(
        pid=int(entry.name),
        parent=int(values[1]),
        cpu_s=_exact_s(entry) or (int(values[11]) + int(values[12])) * TICK_S,
        command=command,
    )


def _exact_s(entry: Path) -> float:
    """User and system time of the living threads in nanoseconds' detail, because a tick is 10 ms; 0 if unknown."""
    spent_ns = 0
    for task in (entry / "task").iterdir():
        try:
            spent_ns += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended, or a kernel that does not count
            continue
    return spent_ns / 1e9


def tree(root: int) -> list[Process]:
    """The process and all its descendants."""
    everyone = processes()
    chosen = {root}
    while True:
        more = {process.pid for process in everyone.values() if process.parent in chosen} - chosen
        if not more:
            return [everyone[pid] for pid in chosen if pid in everyone]
        chosen |= more


def find(root: int, matches: Callable[[Process], bool]) -> list[Process]:
    """Descendants of `root` that match, without those whose ancestor matches already."""
    matching = {process.pid: process for process in tree(root) if matches(process)}
    return [process for process in matching.values() if process.parent not in matching]


def cpu_s(roots: list[int]) -> float:
    """What the trees of `roots` have used so far."""
    return sum(process.cpu_s for root in roots for process in tree(root))


def core_times(core: int | None = None) -> CoreTimes:
    """Of one core, or of all together."""
    name = "cpu" if core is None else f"cpu{core}"
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.split()[0] == name)
    user, nice, system, idle, waiting, irq, soft_irq, steal = (int(value) * TICK_S for value in line.split()[1:9])
    busy = user + nice + system + irq + soft_irq
    return CoreTimes(busy, steal, busy + idle + waiting + steal)


def pin(roots: list[int], core: int) -> None:
    """Every thread of the trees of `roots` runs on `core` from now on."""
    for root in roots:
        for process in tree(root):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})
