"""What this worker says of itself: alive, serving, enforcing, and its numbers for Prometheus.

"Serving" (bytes can flow) and "enforcing" (budgets can be checked) are separate facts. No series is labelled by
organisation, key or customer.
"""

import hmac
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from shared.errors import RequestRefusal

HEALTH: Final = {"status": "ok", "service": "nullspend-proxy"}
_BUCKETS_US: Final = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000)


@dataclass(slots=True)
class Histogram:
    """Cumulative on rendering, plain on the hot path."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_US) + 1))
    total_us: int = 0

    def observe(self, microseconds: int) -> None:
        self.total_us += microseconds
        for index, bound in enumerate(_BUCKETS_US):
            if microseconds <= bound:
                self.counts[index] += 1
                return
        self.counts[-1] += 1


@dataclass(slots=True)
class Metrics:
    """Counters of one worker since it started."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By surface and outcome."""
    refusals: Counter[str] = field(default_factory=Counter)
    """By code."""
    charged_microdollars: int = 0
    held_microdollars: int = 0
    overhead: Histogram = field(default_factory=Histogram)

    def ended(self, surface: str, outcome: str, amount: int, overhead_us: int) -> None:
        self.calls[surface, outcome] += 1
        self.charged_microdollars += amount
        self.overhead.observe(overhead_us)

    def render(self, worker: str, gauges: dict[str, int]) -> bytes:
        """The Prometheus text format. Each worker answers for itself: sum over the label `worker`."""
        lines = ["# TYPE nullspend_calls_total counter"]
        lines += [
            f'nullspend_calls_total{{worker="{worker}",surface="{surface}",outcome="{outcome}"}} {count}'
            for (surface, outcome), count in sorted(self.calls.items())
        ]
        lines.append("# TYPE nullspend_refusals_total counter")
        lines += [
            f'nullspend_refusals_total{{worker="{worker}",code="{code}"}} {count}'
            for code, count in sorted(self.refusals.items())
        ]
        for name, value in (
            ("nullspend_charged_microdollars_total", self.charged_microdollars),
            ("nullspend_held_microdollars_total", self.held_microdollars),
        ):
            lines += [f"# TYPE {name} counter", f'{name}{{worker="{worker}"}} {value}']
        lines += self._render_overhead(worker)
        for name, value in gauges.items():
            lines += [f"# TYPE {name} gauge", f'{name}{{worker="{worker}"}} {value}']
        return ("\n".join(lines) + "\n").encode()

    def _render_overhead(self, worker: str) -> list[str]:
        name, seen = "nullspend_overhead_seconds", 0
        lines = [f"# TYPE {name} histogram"]
        for bound, count in zip((*_BUCKETS_US, None), self.overhead.counts, strict=True):
            seen += count
            le = "+Inf" if bound is None else f"{bound / 1e6:g}"
            lines.append(f'{name}_bucket{{worker="{worker}",le="{le}"}} {seen}')
        lines.append(f'{name}_sum{{worker="{worker}"}} {self.overhead.total_us / 1e6:.6f}')
        lines.append(f'{name}_count{{worker="{worker}"}} {seen}')
        return lines


def check_ops_secret(given: bytes | None, secret: str | None) -> None:
    """Raises RequestRefusal 401 unless the operations secret is configured and was given."""
    if secret is None or given is None or not hmac.compare_digest(given, secret.encode()):
        raise RequestRefusal(
            401, "unauthorized", "Metrics need the header x-ops-health-secret with the value of NULLSPEND_OPS_SECRET."
        )
