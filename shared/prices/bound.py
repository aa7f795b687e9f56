"""The most a call may cost: what is held before it leaves. Never below the cost of a call that stays within it."""

from collections.abc import Mapping
from typing import Final

from shared.money import Microdollars, round_up
from shared.prices.price import CACHES, Price
from shared.prices.rates import DENOMINATOR
from shared.prices.usage import STANDARD, PriceContext

FEES: Final = ("web_search", "file_search", "code_session", "grounded", "characters", "audio_ms", "images", "pages")
"""What `fees` may count: the counters of `Usage`."""


def bound(
    price: Price,
    *,
    input_tokens: int,
    output_tokens: int,
    cache: str = "",
    context: PriceContext = STANDARD,
    fees: Mapping[str, int] | None = None,
    audio: bool = False,
    image: bool = False,
) -> Microdollars:
    """The cost of one model run that uses all of its bounds, each at the dearest rate the run can reach, rounded up.

    `cache` is the longest lifetime of a cache write the request asks for: `""`, `5m` or `1h`. `audio` and `image` say
    that the input may hold such parts (`image` covers video and documents); output is bounded at its dearest kind.
    """
    plan = price.plan(context)
    tier = plan.tier(input_tokens) if plan.starts else 0
    picodollars = input_tokens * plan.inputs[tier][CACHES[cache] + audio * 2 + image]
    picodollars += output_tokens * plan.outputs[tier]
    rates = plan.rates
    fee = rates.request
    if fees:
        for name, count in fees.items():
            assert name in FEES, f"not a fee: {name}"
            units = max(count, rates.audio_ms_min) if name == "audio_ms" and count else count
            fee += units * int(getattr(rates, name))
    if fee:
        picodollars -= -fee // DENOMINATOR
    return round_up(picodollars)
