"""Properties of cost and bound over random models, times, contexts and usages of the real table."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP
from functools import cache

from genai_prices import types as package
from genai_prices.data import providers as package_providers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from control_plane.prices.book import KEYS
from control_plane.prices.overlay import load_overlay
from shared.prices.bound import FEES, bound
from shared.prices.cost import Cost, cost
from shared.prices.price import Price
from shared.prices.usage import PriceContext, Usage, UsagePart
from tests.support.package_prices import book, milliseconds, package_microdollars, table

INPUTS = ("input", "input_audio", "input_image", "input_video")
READS = ("cache_read", "cache_read_audio", "cache_read_image")
WRITES = ("cache_write", "cache_write_5m", "cache_write_1h")
OUTPUTS = ("output", "output_audio", "output_image", "output_video")
TOKENS = st.one_of(st.just(0), st.integers(0, 2_000), st.integers(0, 400_000))
COUNTS = st.one_of(st.just(0), st.integers(0, 30))
CONTEXTS = st.builds(
    PriceContext,
    service_tier=st.sampled_from(["", "", "default", "batch", "flex", "priority", "fast", "unheard-of"]),
    speed=st.sampled_from(["", "", "fast"]),
    geo=st.sampled_from(["", "", "global", "us", "europe-west1"]),
)
MOMENTS = st.datetimes(datetime(2024, 1, 1), datetime(2027, 6, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda at: at.replace(microsecond=at.microsecond // 1_000 * 1_000)
)


@cache
def models() -> list[tuple[str, str]]:
    """Provider and a name of each model of the table."""
    names = [
        (provider.id, model.id)
        for provider in package_providers
        for model in provider.models
        if table()._entry(provider.id, model.id) is not None
    ]
    names += [(line.provider, line.id) for line in load_overlay().models]
    interesting = [name for name in names if _is_interesting(*name)]
    return names + interesting * (len(names) // len(interesting))


def _is_interesting(provider: str, model: str) -> bool:
    """Has tiers, dates, contexts or more than text: one in ten, drawn as often as all the others together."""
    entry = table()._entry(provider, model)
    assert entry is not None
    rates = [rate for _, row in entry.rows for rate in row.items()]
    plain = {"input", "output", "cache_read", "web_search", "file_search", "code_session"}
    return (
        len(entry.rows) > 1
        or bool(entry.variants)
        or any(not isinstance(rate, int) or key not in plain for key, rate in rates)
    )


MODELS = st.deferred(lambda: st.sampled_from(models()))


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    counts = {bucket: draw(TOKENS) for bucket in (*INPUTS[:1], *READS[:1], *OUTPUTS[:1])}
    for group in (INPUTS[1:], READS[1:], WRITES, OUTPUTS[1:]):
        if draw(st.booleans()):
            counts |= {bucket: draw(TOKENS) for bucket in group}
    if draw(st.booleans()):
        counts |= {fee: draw(COUNTS) for fee in FEES}
    usage = Usage(**counts)
    usage.reasoning = draw(st.integers(0, usage.output))
    return usage


def price_of(model: tuple[str, str], at: datetime) -> Price:
    price = table().find(*model, milliseconds(at))
    assume(price is not None)
    assert price is not None
    return price


def charged(model: tuple[str, str], at: datetime, context: PriceContext, *usage: Usage) -> Cost:
    parts = [UsagePart(each) for each in usage]
    at_ms = milliseconds(at)
    return cost(parts, price_of(model, at), context, table=table(), provider=model[0], at_ms=at_ms)


@settings(max_examples=200, deadline=None)
@given(MODELS, MOMENTS, CONTEXTS, st.lists(usages(), min_size=1, max_size=3))
def test_the_breakdown_adds_up_to_the_total(
    model: tuple[str, str], at: datetime, context: PriceContext, usage: list[Usage]
) -> None:
    actual = charged(model, at, context, *usage)

    assert actual.input + actual.output + actual.cached + actual.tools == actual.total
    assert min(actual) >= 0
    assert actual.reasoning <= actual.output
    assert all(type(each) is int for each in actual[:-1])


@settings(max_examples=250, deadline=None)
@given(MODELS, MOMENTS, CONTEXTS, usages(), st.data())
def test_using_more_never_costs_less(
    model: tuple[str, str], at: datetime, context: PriceContext, usage: Usage, data: st.DataObject
) -> None:
    bucket = data.draw(st.sampled_from([each.name for each in fields(Usage) if each.name != "reasoning"]))
    more = replace(usage, **{bucket: getattr(usage, bucket) + data.draw(st.integers(1, 300_000))})

    assert charged(model, at, context, more).total >= charged(model, at, context, usage).total


@settings(max_examples=300, deadline=None)
@given(MODELS, MOMENTS, CONTEXTS, usages(), st.data())
def test_a_call_within_its_bounds_never_costs_more_than_the_bound(
    model: tuple[str, str], at: datetime, context: PriceContext, usage: Usage, data: st.DataObject
) -> None:
    price = price_of(model, at)
    written = usage.cache_write or usage.cache_write_5m
    asked = "1h" if usage.cache_write_1h else "5m" if written and price._entry.explicit_cache else ""
    limit = bound(
        price,
        input_tokens=usage.input_total + data.draw(st.integers(0, 1_000)),
        output_tokens=usage.output_total + data.draw(st.integers(0, 1_000)),
        cache=asked,
        context=context,
        fees={fee: getattr(usage, fee) for fee in FEES},
        audio=bool(usage.input_audio or usage.cache_read_audio),
        image=bool(usage.input_image or usage.input_video or usage.cache_read_image),
    )

    assert charged(model, at, context, usage).total <= limit


def _as_the_package_can_say_it(usage: Usage, prices: package.ModelPrice) -> Usage:
    """Without the fees that only our overlay has, and the images that the package cannot count."""
    priced = {KEYS.get(key) for key, value in vars(prices).items() if value is not None}
    absent = {fee: 0 for fee in FEES if (fee if fee != "grounded" else "web_search") not in priced}
    return replace(usage, **absent)


@settings(max_examples=300, deadline=None)
@given(MODELS, MOMENTS, CONTEXTS, st.lists(usages(), min_size=1, max_size=2))
def test_a_call_costs_what_the_package_says_to_the_microdollar(
    model: tuple[str, str], at: datetime, context: PriceContext, usage: list[Usage]
) -> None:
    entry = price_of(model, at)._entry
    context = replace(context, geo="")
    ours = {line.id for line in load_overlay().models} | {"gpt-4o-search-preview", "gpt-5-search-api"}
    assume(entry.id not in ours)
    assume(not any(line.model == entry.id for line in book().rounded))
    provider = next(each for each in package_providers if each.id == model[0])
    theirs = provider.find_model(model[1], all_providers=package_providers)
    assert theirs is not None
    prices = theirs.get_prices(at, {})
    sayable = [_as_the_package_can_say_it(each, prices) for each in usage]

    exact = package_microdollars(*model, at=at, parts=[UsagePart(each) for each in sayable], context=context)

    assert charged(model, at, context, *sayable).total == int(exact.to_integral_value(ROUND_HALF_UP))


def test_no_tier_of_the_table_is_cheaper_than_the_one_below_it() -> None:
    for provider, model in set(models()):
        entry = table()._entry(provider, model)
        assert entry is not None
        for row in [*(row for _, row in entry.rows), *(row for _, _, row in entry.variants)]:
            for rate in row.values():
                rates = [rate] if isinstance(rate, int) else [rate[0], *rate[2::2]]
                assert rates == sorted(rates), (provider, model)
