"""The hold, from bodies of exact size to microdollars."""

from typing import Any

import orjson
import pytest

from data_plane.decide.estimate import OUTPUT_TOKENS_UNKNOWN, WINDOW_UNKNOWN, Bound, upper_bound
from data_plane.providers.dialect import Facts
from data_plane.providers.registry import DIALECTS
from shared.prices.price import Price
from shared.prices.usage import PriceContext
from tests.support.package_prices import milliseconds, moment, table

NOW_MS = milliseconds(moment("2026-11-22T12:00:00Z"))


def price_of(provider: str, model: str) -> Price:
    price = table().find(provider, model, NOW_MS)
    assert price is not None
    return price


def padded(request: dict[str, Any], size: int) -> bytes:
    """A body of exactly `size` bytes."""
    content = "x" * (size - len(orjson.dumps({**request, "pad": ""})))
    return orjson.dumps({**request, "pad": content})


VECTORS = [
    ("openai.chat", "openai", {"model": "gpt-4o-mini", "max_tokens": 500}, 1000, 375),
    ("openai.chat", "openai", {"model": "gpt-4o-mini", "max_tokens": 500, "n": 8}, 1000, 2475),
    ("openai.chat", "openai", {"model": "o3", "max_completion_tokens": 2000}, 800, 16_800),
    ("openai.chat", "openai", {"model": "gpt-5"}, 4000, 1_282_500),
    ("openai.chat", "openai", {"model": "gpt-6.1-sol", "max_completion_tokens": 1000}, 10_000, 22_500),
    (
        "anthropic", "anthropic",
        {"model": "claude-sonnet-4-5", "max_tokens": 1000, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        400_000, 1_215_000,
    ),
    ("gemini", "google", {"generationConfig": {"maxOutputTokens": 1000}}, 500_000, 640_000),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "provider", "request_", "size", "held"), VECTORS)
def test_the_vectors_of_the_hold(dialect: str, provider: str, request_: dict[str, Any], size: int, held: int) -> None:
    facts = DIALECTS[dialect].facts(padded(request_, size), "gemini-2.5-pro" if dialect == "gemini" else None)
    assert upper_bound(facts, price_of(provider, facts.model)).amount == held


def test_an_odd_byte_rounds_up_and_a_stricter_ratio_holds_more() -> None:
    price = price_of("openai", "gpt-4o")
    facts = Facts("gpt-4o", input_bytes=1001, output_tokens_max=1)
    assert upper_bound(facts, price).input_tokens == 501
    assert upper_bound(facts, price, bytes_per_token=1).input_tokens == 1001


def test_the_input_is_bounded_by_the_context_window() -> None:
    facts = Facts("gpt-4o", input_bytes=10_000_000, output_tokens_max=1)
    assert upper_bound(facts, price_of("openai", "gpt-4o")).input_tokens == 128_000


def test_output_is_the_cap_else_the_ceiling_else_the_assumed_one() -> None:
    price = price_of("openai", "gpt-4o")
    assert upper_bound(Facts("gpt-4o", output_tokens_max=7, candidates=3), price).output_tokens == 21
    assert upper_bound(Facts("gpt-4o", candidates=2), price).output_tokens == 2 * 16_384
    assert upper_bound(Facts("unknown"), None).output_tokens == OUTPUT_TOKENS_UNKNOWN


def test_media_is_bounded_by_part_and_what_is_inline_by_its_bytes() -> None:
    price = price_of("google", "gemini-2.5-flash")
    facts = Facts("gemini-2.5-flash", output_tokens_max=1)
    facts.add_media("image", "x" * 900_000)
    facts.add_media("image", None)
    assert upper_bound(facts, price).input_tokens - (-(-facts.input_bytes // 2)) == 2 * 4800

    sound = Facts("gemini-2.5-flash", output_tokens_max=1, input_bytes=24_000)
    sound.add_media("audio", "x" * 24_000)
    assert upper_bound(sound, price).input_tokens == 1000

    stored = Facts("gemini-2.5-flash", output_tokens_max=1)
    stored.add_media("video", None)
    assert upper_bound(stored, price).input_tokens == WINDOW_UNKNOWN


def test_an_image_at_its_dearest_model_costs_more() -> None:
    facts = Facts("gpt-4o-mini", output_tokens_max=1, media={"image": 1})
    assert upper_bound(facts, price_of("openai", "gpt-4o-mini")).input_tokens == 48_169


def test_stored_context_is_its_remembered_size_else_the_window() -> None:
    price = price_of("openai", "gpt-4o")
    facts = Facts("gpt-4o", output_tokens_max=1, input_bytes=200, server_context=True)
    assert upper_bound(facts, price).input_tokens == 128_000
    assert upper_bound(facts, price, server_context_tokens=5000).input_tokens == 5100


def test_fees_context_and_further_models_are_held() -> None:
    price = price_of("anthropic", "claude-sonnet-4-5")
    plain = upper_bound(Facts("m", input_bytes=2000, output_tokens_max=100), price)
    searched = upper_bound(Facts("m", input_bytes=2000, output_tokens_max=100, fees={"web_search": 10}), price)
    advisor = price_of("anthropic", "claude-opus-4-8")
    advised = upper_bound(Facts("m", input_bytes=2000, output_tokens_max=100), price, sub_prices=[advisor])
    flex = Facts("gpt-5", input_bytes=2000, output_tokens_max=1000, context=PriceContext(service_tier="flex"))

    assert searched.amount == plain.amount + 100_000
    assert (
        advised.amount
        == plain.amount + upper_bound(Facts("m", input_bytes=2000, output_tokens_max=100), advisor).amount
    )
    assert upper_bound(flex, price_of("openai", "gpt-5")).amount == 5625


def test_an_unpriced_call_is_held_at_the_stated_rate_or_at_nothing() -> None:
    facts = Facts("unknown", input_bytes=2000, output_tokens_max=1000)
    assert upper_bound(facts, None) == Bound(upper_bound(facts, None).amount, 1000, 1000)
    assert upper_bound(facts, None).amount == 0
    assert upper_bound(facts, None, unpriced_rate=10_000_001).amount == 20_001
