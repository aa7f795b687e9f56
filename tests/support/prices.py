"""What the providers publish, written down by hand: nothing here comes from the product's price tables."""

from dataclasses import dataclass
from typing import Final

from deploy.demo.script import TokenUsage


@dataclass(frozen=True, slots=True)
class Rates:
    """Microdollars for a thousand tokens, which is dollars for a thousand million of them."""

    input: int
    output: int
    cached: int
    write_5m: int = 0
    write_1h: int = 0

    def cost(self, usage: TokenUsage) -> int:
        """In microdollars, half up."""
        thousandths = (
            usage.uncached * self.input
            + usage.cached * self.cached
            + usage.cache_write_5m * self.write_5m
            + usage.cache_write_1h * self.write_1h
            + usage.output * self.output
        )
        return (thousandths + 500) // 1000


RATES: Final = {
    "gpt-4o": Rates(2500, 10_000, 1250),
    "gpt-4o-mini": Rates(150, 600, 75),
    "claude-sonnet-4-6": Rates(3000, 15_000, 300, 3750, 6000),
    "gemini-2.5-pro": Rates(1250, 10_000, 125),
}
