"""Money is an integer. Amounts are microdollars (1 USD = 1,000,000); rates are picodollars per unit.

One rounding exists: half up, from picodollars to microdollars, once per call.
"""

import re
from typing import Final, NewType

Microdollars = NewType("Microdollars", int)

ZERO: Final = Microdollars(0)
MICRODOLLARS_PER_DOLLAR: Final = 1_000_000
PICODOLLARS_PER_MICRODOLLAR: Final = 1_000_000
MICRODOLLARS_MAX: Final = 2**53 - 1
"""The largest amount on the wire: every JSON reader still holds it exactly."""

_DOLLARS = re.compile(r"\$?([0-9]{1,10})(?:\.([0-9]{1,6}))?")


def round_half_up(picodollars: int) -> Microdollars:
    """Picodollars to microdollars, half up. Negative amounts do not occur in a cost."""
    return Microdollars((picodollars + 500_000) // PICODOLLARS_PER_MICRODOLLAR)


def round_up(picodollars: int) -> Microdollars:
    """Picodollars to microdollars, up: the rounding of a bound, never of a cost."""
    return Microdollars(-(-picodollars // PICODOLLARS_PER_MICRODOLLAR))


def parse_dollars(text: str) -> Microdollars:
    """`"2.01"` or `"$2.01"` to 2,010,000 exactly. At most six decimals; anything else is a ValueError."""
    match = _DOLLARS.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not an amount in dollars: {text!r} (write it like 20 or 0.05, at most six decimals)")
    whole, fraction = match.groups()
    return Microdollars(int(whole) * MICRODOLLARS_PER_DOLLAR + int((fraction or "").ljust(6, "0")))


def format_dollars(amount: int, *, decimals_min: int = 2) -> str:
    """2,010,000 to `"$2.01"`; at least `decimals_min` decimals, at most six, never a float on the way."""
    sign, magnitude = ("-", -amount) if amount < 0 else ("", amount)
    whole, fraction = divmod(magnitude, MICRODOLLARS_PER_DOLLAR)
    decimals = f"{fraction:06d}".rstrip("0").ljust(decimals_min, "0")
    return f"{sign}${whole:,}.{decimals}"
