"""What a call cost: an exact sum of integers over its parts, rounded once, with a breakdown that adds up to it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from shared.money import PICODOLLARS_PER_MICRODOLLAR, Microdollars, round_half_up
from shared.prices.price import Price
from shared.prices.rates import DENOMINATOR, Rates
from shared.prices.table import PriceTable
from shared.prices.usage import PriceContext, Usage, UsagePart

_MICRODOLLAR: Final = PICODOLLARS_PER_MICRODOLLAR
_HALF: Final = PICODOLLARS_PER_MICRODOLLAR // 2


class Cost(NamedTuple):
    """`input + output + cached + tools == total`. `cached` is cache reads and writes, `reasoning` a part of `output`.

    `gap` says that some of it was charged at a rate that is a guess. (A tuple: it is made for every call, and a frozen
    dataclass takes three times as long.)
    """

    total: Microdollars
    input: Microdollars
    output: Microdollars
    cached: Microdollars
    tools: Microdollars
    reasoning: Microdollars
    gap: bool


def cost(
    parts: Sequence[UsagePart], price: Price, context: PriceContext, *, table: PriceTable, provider: str, at_ms: int
) -> Cost:
    """The cost of a call whose own model has `price`.

    A part that names a model is priced by that model's row, tiered by its own input; where it has none, by the call's
    price, as a gap.
    """
    input_pico = output_pico = cached_pico = reasoning_pico = 0
    input_fees = output_fees = tools_fees = 0
    gap = False
    for part in parts:
        row = price
        if part.model is not None:
            own = table.find(provider, part.model, at_ms)
            row, gap = (price, True) if own is None else (own, gap)
        plan = row.plan(context)
        u = part.usage
        rates = plan.tiers[plan.tier(u.input_total)] if plan.starts else plan.rates
        gap = gap or not plan.known
        input_pico += u.input * rates.input
        output_pico += u.output * rates.output
        cached_pico += u.cache_read * rates.cache_read
        if rates.text_gaps:
            gap = gap or _any(u, rates.text_gaps)
        if u.reasoning:
            # Reasoning is in `output`; only a rate of its own makes a difference.
            thought = min(u.reasoning, u.output)
            output_pico += thought * rates.reasoning_extra
            reasoning_pico += thought * rates.reasoning
        if u.cache_write or u.cache_write_5m or u.cache_write_1h:
            cached_pico += _writes(u, rates)
            gap = gap or _any(u, rates.write_gaps)
        if u.input_audio or u.input_image or u.input_video or u.cache_read_audio or u.cache_read_image:
            input_pico += _media_input(u, rates)
            cached_pico += u.cache_read_audio * rates.cache_read_audio + u.cache_read_image * rates.cache_read_image
            gap = gap or _any(u, rates.media_gaps)
        if u.output_audio or u.output_image or u.output_video:
            output_pico += _media_output(u, rates)
            gap = gap or _any(u, rates.media_gaps)
        if u.web_search or u.file_search or u.code_session or u.grounded or rates.request:
            tools_fees += _tools(u, rates)
            gap = gap or _any(u, rates.fee_gaps)
        if u.audio_ms or u.characters or u.pages or u.images:
            input_fees += _units(u, rates)
            output_fees += u.images * rates.images
            gap = gap or _any(u, rates.fee_gaps)
    if not (input_fees or output_fees or tools_fees):
        total = input_pico + output_pico + cached_pico
        return _broken_down(total, (input_pico, output_pico, cached_pico, 0), reasoning_pico, gap=gap)
    # Fractions of a picodollar count in the sum; once they are summed, dropping them cannot change a rounding.
    total = input_pico + output_pico + cached_pico + (input_fees + output_fees + tools_fees) // DENOMINATOR
    input_pico += input_fees // DENOMINATOR
    output_pico += output_fees // DENOMINATOR
    parts_pico = (input_pico, output_pico, cached_pico, tools_fees // DENOMINATOR)
    return _broken_down(total, parts_pico, reasoning_pico, gap=gap)


def _any(usage: Usage, buckets: tuple[str, ...]) -> bool:
    for bucket in buckets:  # noqa: SIM110  (any() and a generator take four times as long)
        if getattr(usage, bucket):
            return True
    return False


def _writes(usage: Usage, rates: Rates) -> int:
    """Cache writes, in picodollars."""
    return (
        usage.cache_write * rates.cache_write
        + usage.cache_write_5m * rates.cache_write_5m
        + usage.cache_write_1h * rates.cache_write_1h
    )


def _media_input(usage: Usage, rates: Rates) -> int:
    """Uncached input that is not text, in picodollars."""
    return (
        usage.input_audio * rates.input_audio
        + usage.input_image * rates.input_image
        + usage.input_video * rates.input_video
    )


def _media_output(usage: Usage, rates: Rates) -> int:
    """Output that is not text, in picodollars."""
    return (
        usage.output_audio * rates.output_audio
        + usage.output_image * rates.output_image
        + usage.output_video * rates.output_video
    )


def _tools(usage: Usage, rates: Rates) -> int:
    """Fees of hosted tools and the fee of the run itself, in picodollars times `DENOMINATOR`."""
    return (
        usage.web_search * rates.web_search
        + usage.file_search * rates.file_search
        + usage.code_session * rates.code_session
        + usage.grounded * rates.grounded
        + rates.request
    )


def _units(usage: Usage, rates: Rates) -> int:
    """Input that is not counted in tokens, in picodollars times `DENOMINATOR`."""
    audio_ms = max(usage.audio_ms, rates.audio_ms_min) if usage.audio_ms else 0
    return audio_ms * rates.audio_ms + usage.characters * rates.characters + usage.pages * rates.pages


def _broken_down(total_pico: int, parts: tuple[int, int, int, int], reasoning_pico: int, *, gap: bool) -> Cost:
    """Each part rounded apart; what is then missing or too much goes to the largest, then on: no part is negative."""
    total = round_half_up(total_pico)
    # The same rounding as the total's, written out: five calls of it would cost more than all the rest.
    spent_in = (parts[0] + _HALF) // _MICRODOLLAR
    spent_out = (parts[1] + _HALF) // _MICRODOLLAR
    cached = (parts[2] + _HALF) // _MICRODOLLAR
    tools = (parts[3] + _HALF) // _MICRODOLLAR
    if spent_in + spent_out + cached + tools != total:
        spent_in, spent_out, cached, tools = _fitted(total, parts, [spent_in, spent_out, cached, tools])
    thought = min((reasoning_pico + _HALF) // _MICRODOLLAR, spent_out)
    return Cost._make((total, spent_in, spent_out, cached, tools, thought, gap))


def _fitted(total: int, parts: Sequence[int], rounded: list[int]) -> list[int]:
    residual = total - sum(rounded)
    for _, index in sorted((-part, index) for index, part in enumerate(parts)):
        change = max(residual, -rounded[index])
        rounded[index] += change
        residual -= change
        if not residual:
            break
    return rounded
