"""Runs every target in every round, in shuffled order, and keeps the rounds that a busy machine did not spoil."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import cpu
from bench.native import PROXY_CORE, Load, Programs
from bench.targets import Target

STEAL_MAX: Final = 0.02
CONTROL_SLOW_MAX: Final = 1.4
"""A round in which nginx needs this much more CPU per request than at its best says nothing about anybody."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load."""

    mode: str
    connections: int

    @property
    def name(self) -> str:
        return f"{self.mode}, {self.connections} conn."


@dataclass(frozen=True, slots=True)
class Sample:
    cell: Cell
    target: str
    round: int
    load: Load
    cpu_us: float
    """Of the proxy, per request; 0 when there is none."""
    helper_us: tuple[tuple[str, float], ...]
    proxy_busy: float
    """Share of the time that the proxy was on its core: below 1 it waited for the other core."""
    foreign: float
    """Share of the proxy's core that went to anybody else."""
    steal: float

    @property
    def requests_per_s(self) -> float:
        return self.load.counted / self.load.seconds

    @property
    def cpu_per_event_us(self) -> float:
        return self.cpu_us * self.load.total / self.load.events if self.load.events else 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    programs: Programs
    targets: Sequence[Target]
    cells: Sequence[Cell]
    rounds: int
    seconds: float
    request: Callable[[Cell, Target], Path]
    """The file with the bytes to send."""


def run(plan: Plan, *, seed: int, said: Callable[[str], None]) -> list[Sample]:
    shuffled = random.Random(seed)
    samples = []
    for number in range(plan.rounds):
        for cell in plan.cells:
            for target in shuffled.sample(plan.targets, len(plan.targets)):
                sample = _measure(plan, cell, target, number)
                samples.append(sample)
                said(
                    f"round {number + 1}/{plan.rounds}  {cell.name:16} {target.name:6} {sample.requests_per_s:9,.0f}/s"
                )
    return samples


def _measure(plan: Plan, cell: Cell, target: Target, number: int) -> Sample:
    helpers = target.helpers
    core, machine = cpu.core_times(PROXY_CORE), cpu.core_times()
    proxy_s, helpers_s = cpu.cpu_s(list(target.proxy)), [cpu.cpu_s([pid]) for _, pid in helpers]
    load = plan.programs.run_load(
        target.port, plan.request(cell, target), connections=cell.connections, seconds=plan.seconds
    )
    proxy_s = cpu.cpu_s(list(target.proxy)) - proxy_s
    helpers_s = [cpu.cpu_s([pid]) - before for (_, pid), before in zip(helpers, helpers_s, strict=True)]
    core, machine = cpu.core_times(PROXY_CORE).since(core), cpu.core_times().since(machine)
    return Sample(
        cell=cell,
        target=target.name,
        round=number,
        load=load,
        cpu_us=proxy_s / load.total * 1e6,
        helper_us=tuple((name, spent / load.total * 1e6) for (name, _), spent in zip(helpers, helpers_s, strict=True)),
        proxy_busy=proxy_s / core.total_s,
        foreign=max(0.0, core.busy_s - proxy_s) / core.total_s,
        steal=machine.steal_s / machine.total_s,
    )


def kept(samples: list[Sample]) -> tuple[list[Sample], list[str]]:
    """Samples of good rounds, and why the others were dropped. A cell of a round is dropped for all its targets."""
    best = {
        cell: min(sample.cpu_us for sample in samples if (sample.cell, sample.target) == (cell, "nginx"))
        for cell in {sample.cell for sample in samples if sample.target == "nginx"}
    }
    spoilt: dict[tuple[int, Cell], str] = {}
    for sample in samples:
        place = f"round {sample.round + 1}, {sample.cell.name}"
        if sample.steal > STEAL_MAX:
            spoilt[sample.round, sample.cell] = f"{place}: {sample.steal:.1%} of the machine was stolen"
        elif sample.target == "nginx" and sample.cpu_us > CONTROL_SLOW_MAX * best[sample.cell]:
            spoilt[sample.round, sample.cell] = (
                f"{place}: nginx needed {sample.cpu_us / best[sample.cell]:.1f}x its best"
            )
    good = [sample for sample in samples if (sample.round, sample.cell) not in spoilt]
    return good, list(spoilt.values())
