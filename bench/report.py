"""Medians over rounds, ratios within a round, and how they are shown."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.rounds import Cell, Sample

ROUNDS_ENOUGH: Final = 5
FOREIGN_MUCH: Final = 0.1

Figure = Callable[[Sample], float]


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    """The first quartile."""
    high: float
    """The third."""
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if len(values) < 2:
            return cls(values[0], values[0], values[0], len(values))
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One target against another in the same round."""

    cell: Cell
    who: str
    figure: str
    against: str
    spread: Spread
    unit: str


def cells(samples: list[Sample]) -> list[Cell]:
    return list(dict.fromkeys(sample.cell for sample in samples))


def targets(samples: list[Sample]) -> list[str]:
    return sorted({sample.target for sample in samples}, key=["direct", "nginx", "ours"].index)


def spread(samples: list[Sample], cell: Cell, target: str, figure: Figure) -> Spread:
    return Spread.of([figure(sample) for sample in samples if (sample.cell, sample.target) == (cell, target)])


def _ratio(figure: Figure) -> Callable[[Sample, Sample], float]:
    return lambda one, other: figure(one) / figure(other)


def _added_p50(one: Sample, other: Sample) -> float:
    return one.load.p50_us - other.load.p50_us


_JOINS: Final[tuple[tuple[str, str, str, str, Callable[[Sample, Sample], float]], ...]] = (
    ("ours", "CPU per request", "nginx", "x", _ratio(lambda sample: sample.cpu_us)),
    ("ours", "CPU per event", "nginx", "x", _ratio(lambda sample: sample.cpu_per_event_us)),
    ("ours", "requests/s", "nginx", "x", _ratio(lambda sample: sample.requests_per_s)),
    ("ours", "p99", "nginx", "x", _ratio(lambda sample: sample.load.p99_us)),
    ("nginx", "added p50", "direct", "us", _added_p50),
    ("ours", "added p50", "direct", "us", _added_p50),
)


def comparisons(samples: list[Sample]) -> list[Comparison]:
    found = []
    for cell in cells(samples):
        for who, figure, against, unit, join in _JOINS:
            if figure == "CPU per event" and cell.mode != "sse":
                continue
            values = [join(one, other) for one, other in _pairs(samples, cell, who, against)]
            if values:
                found.append(Comparison(cell, who, figure, against, Spread.of(values), unit))
    return found


def caveats(samples: list[Sample], wanted: list[Cell]) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    fewest = min(len({sample.round for sample in samples if sample.cell == cell}) for cell in wanted)
    if fewest < ROUNDS_ENOUGH:
        found.append(f"only {fewest} good rounds for some load: read nothing into it, run again with more --rounds")
    foreign = statistics.median(sample.foreign for sample in samples)
    if foreign > FOREIGN_MUCH:
        found.append(f"other processes took {foreign:.0%} of the proxy's core: latencies and requests/s are theirs too")
    return found


def _pairs(samples: list[Sample], cell: Cell, who: str, against: str) -> list[tuple[Sample, Sample]]:
    by_place = {(sample.round, sample.target): sample for sample in samples if sample.cell == cell}
    return [
        (one, by_place[number, against])
        for (number, target), one in by_place.items()
        if target == who and (number, against) in by_place
    ]


def show(samples: list[Sample], console: Console) -> None:
    table = Table(title="Median of the rounds kept (quartiles)")
    table.add_column("load")
    table.add_column("target")
    for name in ("req/s", "CPU us/req", "p50 us", "p99 us", "proxy busy", "core 0: others", "ledger us/req"):
        table.add_column(name, justify="right")
    for cell in cells(samples):
        for target in targets(samples):
            table.add_row(cell.name, target, *_row(samples, cell, target))
    console.print(table)
    if not comparisons(samples):
        return
    table = Table(title="One target against another in the same round: median (quartiles)")
    for name in ("load", "target", "figure", "against"):
        table.add_column(name)
    table.add_column("ratio or difference", justify="right")
    for one in comparisons(samples):
        digits = 2 if one.unit == "x" else 0
        table.add_row(one.cell.name, one.who, one.figure, one.against, f"{_shown(one.spread, digits)} {one.unit}")
    console.print(table)


def _row(samples: list[Sample], cell: Cell, target: str) -> list[str]:
    def figure(of: Figure, digits: int = 0) -> str:
        return _shown(spread(samples, cell, target, of), digits)

    def share(of: Figure) -> str:
        return f"{spread(samples, cell, target, of).median:.0%}"

    proxied = target != "direct"
    return [
        figure(lambda sample: sample.requests_per_s),
        figure(lambda sample: sample.cpu_us, 1) if proxied else "-",
        figure(lambda sample: sample.load.p50_us),
        figure(lambda sample: sample.load.p99_us),
        share(lambda sample: sample.proxy_busy) if proxied else "-",
        share(lambda sample: sample.foreign) if proxied else "-",
        figure(lambda sample: dict(sample.helper_us).get("ledger", 0.0), 1) if target == "ours" else "-",
    ]


def _shown(spread: Spread, digits: int) -> str:
    return f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f}-{spread.high:,.{digits}f})"


def document(samples: list[Sample], dropped: list[str]) -> dict[str, Any]:
    """Everything that was measured, for a file."""
    return {
        "comparisons": [asdict(one) for one in comparisons(samples)],
        "dropped": dropped,
        "samples": [asdict(sample) | {"requests_per_s": sample.requests_per_s} for sample in samples],
    }
