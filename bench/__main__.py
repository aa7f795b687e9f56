"""`python -m bench`: starts the targets, measures, prints a table. Any error reply ends it with 1."""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import native, report, request, rounds, targets
from bench.native import BenchError, Programs
from bench.product import Product, product
from bench.rounds import Cell
from bench.targets import Target

TARGETS: Final = ("direct", "nginx", "ours")
MODES: Final = ("json", "sse")


@dataclass(frozen=True, slots=True)
class Options:
    rounds: int
    seconds: float
    connections: tuple[int, ...]
    modes: tuple[str, ...]
    events: int
    pace_ms: float
    body: int
    targets: tuple[str, ...]
    seed: int
    json: Path | None

    @property
    def cells(self) -> list[Cell]:
        return [Cell(mode, count) for mode in self.modes for count in self.connections]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    console = Console(width=170 if not sys.stdout.isatty() else None)
    try:
        native.require_machine(nginx="nginx" in options.targets)
    except BenchError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix="nullspend-bench-") as folder:
            return _bench(options, Path(folder), console)
    except BenchError as error:
        console.print(str(error), style="red", markup=False)
        return 1


def _bench(options: Options, folder: Path, console: Console) -> int:
    programs = Programs.compile(folder)
    with ExitStack() as stack:
        pace_us = int(options.pace_ms * 1000)
        port = stack.enter_context(native.upstream(programs, folder, events=options.events, pace_us=pace_us))
        chosen: list[Target] = []
        ours: Product | None = None
        if "direct" in options.targets:
            chosen.append(targets.direct(port))
        if "nginx" in options.targets:
            chosen.append(stack.enter_context(targets.nginx(folder / "nginx", port)))
        if "ours" in options.targets:
            console.print("starting NullSpend ...")
            ours = stack.enter_context(product(folder / "ours", port))
            chosen.append(ours.target)
        files = _requests(folder, options, chosen)
        plan = rounds.Plan(
            programs=programs,
            targets=chosen,
            cells=options.cells,
            rounds=options.rounds,
            seconds=options.seconds,
            request=lambda cell, target: files[cell.mode, target.name],
        )
        console.print(f"seed {options.seed}, load average {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores")
        samples = rounds.run(plan, seed=options.seed, said=lambda text: console.print(text, style="dim"))
        if ours is not None:
            calls = sum(sample.load.total for sample in samples if sample.target == "ours")
            cost = ours.check_money(calls)
            console.print(f"{calls:,} calls through NullSpend, each charged {cost} microdollars in 3 budgets: exact")
    return _report(samples, options, console)


def _requests(folder: Path, options: Options, chosen: list[Target]) -> dict[tuple[str, str], Path]:
    """What is sent, as a file, by mode and target."""
    files = {}
    for mode in options.modes:
        try:
            content = request.body(options.body, stream=mode == "sse")
        except ValueError as error:
            raise BenchError(str(error)) from error
        for target in chosen:
            path = folder / f"{mode}-{target.name}.http"
            path.write_bytes(request.request(content, target.headers))
            files[mode, target.name] = path
    return files


def _report(samples: list[rounds.Sample], options: Options, console: Console) -> int:
    good, dropped = rounds.kept(samples)
    for reason in dropped:
        console.print(f"dropped {reason}", markup=False)
    if options.json is not None:
        options.json.write_text(json.dumps(report.document(good, dropped), indent=1) + "\n")
    if not good:
        raise BenchError("no round was good: the machine is too busy to measure on")
    report.show(good, console)
    for caveat in report.caveats(good, options.cells):
        console.print(caveat, style="yellow", markup=False)
    if "ours" in options.targets:
        console.print("nginx forwards bytes; ours also authenticates, holds, meters, charges and records every call.")
    return 0


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What does a call through NullSpend cost?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of measurement per target, cell and round")
    parser.add_argument("--connections", type=_numbers, default=(1, 64), help="one cell for each: 1,64")
    parser.add_argument("--modes", type=_names(MODES), default=("json",), help="json,sse")
    parser.add_argument("--events", type=int, default=50, help="of a stream")
    parser.add_argument("--pace-ms", type=float, default=5.0, help="between two events; 0: as fast as possible")
    parser.add_argument("--body", type=int, default=740, help="bytes of a request's body")
    parser.add_argument("--target", type=_names(TARGETS), default=TARGETS, help=",".join(TARGETS))
    parser.add_argument("--seed", type=int, default=None, help="of the order of the targets")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write every sample")
    found = parser.parse_args(arguments)
    return Options(
        rounds=max(1, found.rounds),
        seconds=found.seconds,
        connections=found.connections,
        modes=found.modes,
        events=max(1, found.events),
        pace_ms=found.pace_ms,
        body=found.body,
        targets=found.target,
        seed=random.SystemRandom().randrange(1 << 16) if found.seed is None else found.seed,
        json=found.json,
    )


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if not all(1 <= number <= 2000 for number in numbers):
        raise argparse.ArgumentTypeError("between 1 and 2000 connections")
    return numbers


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        if not set(names) <= set(known):
            raise argparse.ArgumentTypeError(f"choose from {','.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
