"""The rules of a cost and of a bound that the golden vectors do not spell out."""

import orjson
import pytest

from shared.prices.bound import bound
from shared.prices.cost import Cost, _broken_down, cost
from shared.prices.price import Price, rate_above
from shared.prices.rates import DENOMINATOR, Rates, resolve
from shared.prices.table import PriceTable
from shared.prices.usage import STANDARD, PriceContext, Usage, UsagePart
from tests.support.package_prices import milliseconds, moment, table

NOW = milliseconds(moment("2026-11-22T12:00:00Z"))


def found(provider: str, model: str, prices: PriceTable | None = None) -> Price:
    price = (prices or table()).find(provider, model, NOW)
    assert price is not None
    return price


def charged(provider: str, model: str, *usages: Usage, context: PriceContext = STANDARD) -> Cost:
    parts = [UsagePart(usage) for usage in usages]
    return cost(parts, found(provider, model), context, table=table(), provider=provider, at_ms=NOW)


def small_table(**model: object) -> PriceTable:
    """A table of one provider `p` with one model `m`, whose rates are as given."""
    header = {"format": 1, "version": "v+ov:x", "aliases": {}, "prefixes": {}, "providers": ["p"]}
    line = {"models": [{"id": "m", **model}]}
    return PriceTable.load(b"\n".join((orjson.dumps(header), orjson.dumps(line))))


def test_a_call_without_usage_costs_nothing() -> None:
    assert charged("openai", "gpt-4o") == (0, 0, 0, 0, 0, 0, False)


def test_parts_are_summed_exactly_and_rounded_once() -> None:
    one = Usage(input=1)

    assert charged("openai", "gpt-4o-mini", one).total == 0
    assert charged("openai", "gpt-4o-mini", one, one, one, one).total == 1


def test_each_part_has_its_own_tier() -> None:
    half = Usage(input=150_000)

    assert charged("anthropic", "claude-sonnet-4-5", half, half).total == 900_000
    assert charged("anthropic", "claude-sonnet-4-5", Usage(input=300_000)).total == 1_800_000


def test_reasoning_is_shown_and_not_added() -> None:
    with_reasoning = charged("openai", "o3", Usage(input=1_500, output=9_000, reasoning=8_500))

    assert with_reasoning.total == charged("openai", "o3", Usage(input=1_500, output=9_000)).total
    assert with_reasoning.reasoning == 68_000


def test_reasoning_beyond_the_output_is_no_more_than_the_output() -> None:
    assert charged("openai", "o3", Usage(output=10, reasoning=11)).reasoning == 80


def test_reasoning_with_a_rate_of_its_own_takes_it() -> None:
    actual = charged("perplexity", "sonar-deep-research", Usage(output=1_000, reasoning=400))

    assert (actual.total, actual.reasoning) == (600 * 8 + 400 * 3, 1_200)


def test_a_part_of_an_unknown_model_is_charged_at_the_calls_price_as_a_gap() -> None:
    parts = [UsagePart(Usage(input=1_000), "claude-nobody")]
    actual = cost(
        parts, found("anthropic", "claude-opus-4-8"), STANDARD, table=table(), provider="anthropic", at_ms=NOW
    )

    assert (actual.total, actual.gap) == (5_000, True)


def test_a_fee_per_run_is_charged_once_for_each_part() -> None:
    assert charged("openai", "gpt-4o-search-preview", Usage(), Usage()).tools == 50_000


@pytest.mark.parametrize(
    ("provider", "model", "usage", "gap"),
    [
        ("openai", "gpt-4o", Usage(input=1, input_image=1, cache_read=1, cache_read_image=1, output=1), False),
        ("openai", "gpt-4o", Usage(input_audio=1), True),
        ("openai", "gpt-4o", Usage(cache_read_audio=1), True),
        ("openai", "gpt-4o", Usage(output_audio=1), True),
        ("openai", "gpt-4o", Usage(output_image=1), True),
        ("openai", "gpt-image-1", Usage(output_image=1), False),
        ("openai", "gpt-audio", Usage(input_audio=1, cache_read_audio=1, output_audio=1), False),
        ("openai", "text-embedding-3-small", Usage(output=1), True),
        ("openai", "whisper-1", Usage(input=1), True),
        ("openai", "gpt-4o", Usage(characters=1), True),
        ("google", "gemini-2.5-pro", Usage(input_audio=1, cache_read_audio=1, input_video=1), False),
        ("google", "gemini-2.5-pro-tts", Usage(output_audio=1), False),
        ("google", "gemini-2.0-flash-lite", Usage(grounded=1), True),
        ("anthropic", "claude-opus-4-8", Usage(cache_write=1, cache_write_5m=1, cache_write_1h=1), False),
        ("google", "claude-3-5-sonnet", Usage(cache_write_1h=1), True),
        ("mistral", "mistral-large-latest", Usage(web_search=1), True),
    ],
)
def test_what_is_charged_by_a_guess_is_a_gap(provider: str, model: str, usage: Usage, *, gap: bool) -> None:
    assert charged(provider, model, usage).gap is gap


@pytest.mark.parametrize(
    ("provider", "model", "context", "known"),
    [
        ("openai", "gpt-4o", PriceContext(service_tier="default"), True),
        ("openai", "gpt-4o", PriceContext(service_tier="auto"), True),
        ("openai", "gpt-4o", PriceContext(service_tier="priority"), True),
        ("openai", "gpt-4o", PriceContext(service_tier="flex"), False),
        ("openai", "gpt-4o", PriceContext(service_tier="scale"), False),
        ("openai", "gpt-4o", PriceContext(geo="eu"), False),
        ("openai", "gpt-3.5-turbo-1106", PriceContext(service_tier="batch"), True),
        ("openai", "omni-moderation-latest", PriceContext(service_tier="flex", geo="eu"), True),
        ("anthropic", "claude-opus-4-8", PriceContext("standard", "fast", "us"), True),
        ("anthropic", "claude-opus-4-6", PriceContext(speed="fast"), False),
        ("anthropic", "claude-opus-4-5", PriceContext(geo="not_available"), True),
        ("vertex", "claude-opus-4-5", PriceContext(geo="europe-west1"), True),
        ("azure", "gpt-5", PriceContext(service_tier="priority"), False),
    ],
)
def test_a_price_knows_the_contexts_that_have_rates(
    provider: str, model: str, context: PriceContext, *, known: bool
) -> None:
    assert found(provider, model).knows(context) is known
    assert charged(provider, model, Usage(input=1), context=context).gap is not known


def test_fast_and_us_multiply() -> None:
    context = PriceContext(speed="fast", geo="us")

    assert charged("anthropic", "claude-opus-4-8", Usage(input=1_000, output=500), context=context).total == 38_500


def test_only_so_many_contexts_of_a_price_are_remembered() -> None:
    price = found("openai", "gpt-4o")
    for number in range(100):
        assert not price.knows(PriceContext(service_tier=f"tier-{number}"))

    assert len(price._plans) <= 32


def test_the_first_variant_that_matches_wins_for_each_key_apart() -> None:
    variants = [
        ({"service_tier": "flex"}, None, {"input": 5_000_000}),
        ({"service_tier": "flex"}, None, {"input": 7_000_000, "output": 11_000_000}),
    ]
    prices = small_table(rows=[[None, {"input": 1_000_000, "output": 1_000_000}]], variants=variants)
    price = prices.find("p", "m", NOW)

    assert price is not None
    rates = price.plan(PriceContext(service_tier="flex")).rates
    assert (rates.input, rates.output) == (5_000_000, 11_000_000)


def test_tiers_with_different_starts_meet_in_one_plan() -> None:
    row = {"input": [1, 10, 2, 30, 3], "output": [4, 20, 5], "cache_read": 6}
    price = small_table(rows=[[None, row]]).find("p", "m", NOW)

    assert price is not None
    plan = price.plan(STANDARD)
    assert plan.starts == (10, 20, 30)
    assert [(rates.input, rates.output, rates.cache_read) for rates in plan.tiers] == [
        (1, 4, 6),
        (2, 4, 6),
        (2, 5, 6),
        (3, 5, 6),
    ]
    assert [plan.tier(tokens) for tokens in (0, 10, 11, 20, 21, 30, 31)] == [0, 0, 1, 1, 2, 2, 3]


def test_a_rate_in_a_tier_is_that_of_the_last_start_at_or_below_it() -> None:
    assert [rate_above([1, 10, 2, 30, 3], start) for start in (-1, 10, 20, 30)] == [1, 2, 2, 3]


def test_which_rate_cached_audio_takes_is_a_guess_between_two() -> None:
    rates = resolve({"input": 1, "input_audio": 5, "cache_read": 2})

    assert rates.cache_read_audio == 5
    assert "cache_read_audio" in rates.media_gaps
    assert "cache_read_audio" not in resolve({"input": 1, "input_audio": 5}).media_gaps


def test_cached_images_cost_what_is_dearer_of_images_and_cached_text() -> None:
    assert resolve({"input": 1, "input_image": 5, "cache_read": 2}).cache_read_image == 5
    assert resolve({"input": 7, "cache_read": 2}).cache_read_image == 2
    assert resolve({"input": 7}).cache_read_image == 7


def test_a_row_without_rates_charges_nothing() -> None:
    assert (resolve({}).input, resolve({}).output, resolve({}).web_search) == (0, 0, 0)


def test_fees_are_numerators_over_one_denominator() -> None:
    assert resolve({"audio_ms": 360 * 10**9}).audio_ms * 3_600_000 == 360 * 10**9 * DENOMINATOR
    assert Rates().audio_ms == 0


def test_fractions_of_a_picodollar_add_up_across_parts() -> None:
    """A third of a picodollar thrice is one: 1,500,000 picodollars round to 2 microdollars."""
    row = {"input": 1_499_999, "audio_ms": 1_200_000}
    prices = small_table(rows=[[None, row]])
    price = prices.find("p", "m", NOW)
    assert price is not None

    parts = [UsagePart(Usage(input=1)), *(UsagePart(Usage(audio_ms=1)) for _ in range(3))]
    assert cost(parts, price, STANDARD, table=prices, provider="p", at_ms=NOW).total == 2
    assert cost(parts[:3], price, STANDARD, table=prices, provider="p", at_ms=NOW).total == 1


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ((500_000, 500_000, 500_000, 500_000), (0, 0, 1, 1)),
        ((400_000, 400_000, 0, 0), (1, 0, 0, 0)),
        ((10_500_000, 10_600_000, 0, 0), (11, 10, 0, 0)),
        ((0, 0, 0, 0), (0, 0, 0, 0)),
        ((1_000_000, 2_000_000, 3_000_000, 4_000_000), (1, 2, 3, 4)),
    ],
)
def test_the_breakdown_adds_up_and_no_part_is_negative(
    parts: tuple[int, int, int, int], shown: tuple[int, int, int, int]
) -> None:
    actual = _broken_down(sum(parts), parts, 0, gap=False)

    assert (actual.input, actual.output, actual.cached, actual.tools) == shown
    assert sum(shown) == actual.total


def test_a_bound_of_nothing_is_nothing() -> None:
    assert bound(found("openai", "gpt-4o"), input_tokens=0, output_tokens=0) == 0
    assert bound(found("openai", "omni-moderation-latest"), input_tokens=10**9, output_tokens=10**9) == 0


def test_a_bound_counts_the_fee_of_the_run() -> None:
    assert bound(found("openai", "gpt-4o-search-preview"), input_tokens=0, output_tokens=0) == 25_000


def test_a_bound_rounds_up() -> None:
    assert bound(found("openai", "gpt-4o-mini"), input_tokens=1, output_tokens=0) == 1


def test_a_bound_counts_fractions_of_a_picodollar() -> None:
    price = small_table(rows=[[None, {"input": 1_000_000, "audio_ms": 1_200_000}]]).find("p", "m", NOW)

    assert price is not None
    assert bound(price, input_tokens=1, output_tokens=0) == 1
    assert bound(price, input_tokens=1, output_tokens=0, fees={"audio_ms": 1}) == 2
    assert bound(price, input_tokens=1, output_tokens=0, fees={"audio_ms": 3}) == 2


def test_a_bound_is_not_lower_where_a_tier_is_cheaper() -> None:
    row = {"input": [9_000_000, 10, 1_000_000], "output": [8_000_000, 10, 2_000_000]}
    price = small_table(rows=[[None, row]]).find("p", "m", NOW)

    assert price is not None
    assert bound(price, input_tokens=11, output_tokens=10) == 99 + 80


def test_a_bound_of_images_covers_video() -> None:
    price = found("google", "gemini-embedding-2")

    assert bound(price, input_tokens=1_000, output_tokens=0, image=True) == 12_000


def test_a_bound_takes_the_dearest_media_that_may_be_there() -> None:
    price = found("openai", "gpt-realtime")

    assert bound(price, input_tokens=1_000, output_tokens=0) == 4_000
    assert bound(price, input_tokens=1_000, output_tokens=0, image=True) == 5_000
    assert bound(price, input_tokens=1_000, output_tokens=0, audio=True) == 32_000
    assert bound(price, input_tokens=1_000, output_tokens=0, audio=True, image=True) == 32_000


def test_a_model_that_caches_by_itself_is_bounded_at_its_write_rate() -> None:
    assert bound(found("openai", "gpt-6.1-sol"), input_tokens=1_000, output_tokens=0) == 2_500
    assert bound(found("anthropic", "claude-opus-4-8"), input_tokens=1_000, output_tokens=0) == 5_000


def test_a_bound_uses_the_minimum_of_audio() -> None:
    price = found("groq", "whisper-large-v3")

    assert bound(price, input_tokens=0, output_tokens=0, fees={"audio_ms": 1}) == 309
    assert bound(price, input_tokens=0, output_tokens=0, fees={"audio_ms": 0}) == 0


def test_a_fee_that_is_none_is_an_error() -> None:
    with pytest.raises(AssertionError, match="not a fee"):
        bound(found("openai", "gpt-4o"), input_tokens=0, output_tokens=0, fees={"input": 1})
