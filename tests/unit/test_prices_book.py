"""The compiled book against the package's data: every rate is there, exactly, and nothing else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import time, timedelta, timezone
from decimal import Decimal
from typing import Any

import orjson
from genai_prices import types as package
from genai_prices.data import providers as package_providers

from control_plane.prices import book as compiler
from control_plane.prices.overlay import load_overlay
from shared.prices.rates import TOKEN_KEYS, UNITS_PER_RATE
from tests.support.package_prices import book, table

RESELLERS = {"openrouter", "huggingface_together"}


def documents() -> dict[str, Any]:
    header, *lines = map(orjson.loads, book().payload.split(b"\n"))
    return dict(zip(header["providers"], lines, strict=True))


def conditional(model: package.ModelInfo) -> list[package.ConditionalPrice]:
    return (
        [package.ConditionalPrice(prices=model.prices)]
        if isinstance(model.prices, package.ModelPrice)
        else model.prices
    )


def flat_rates(prices: package.ModelPrice) -> Iterator[tuple[str, int, Decimal]]:
    """Key, index in the compiled rate, dollars."""
    for key, value in vars(prices).items():
        if isinstance(value, package.TieredPrices):
            yield key, 0, value.base
            for number, tier in enumerate(value.tiers):
                yield key, 2 * number + 2, tier.price
        elif value is not None:
            yield key, 0, value


def test_every_rate_of_the_package_is_in_the_table_exactly_or_listed_as_rounded() -> None:
    rounded = {(line.provider, line.model, line.key, line.dollars) for line in book().rounded}
    rates = 0
    for provider in package_providers:
        compiled = {model["id"]: model for model in documents()[provider.id]["models"] if "overlay" not in model}
        assert list(compiled) == [model.id for model in provider.models]
        for model in provider.models:
            rows = [row for _, row in compiled[model.id]["rows"]]
            rows += [row for _, _, row in compiled[model.id].get("variants", ())]
            prices = [each.prices for each in conditional(model)]
            prices += [each.prices for each in model.price_variants or ()]
            for ours, theirs in zip(rows, prices, strict=True):
                for key, index, dollars in flat_rates(theirs):
                    rates += 1
                    if key in compiler.UNCHARGED:
                        continue
                    value = ours[compiler.KEYS[key]]
                    picodollars = value if isinstance(value, int) else value[index]
                    exact = dollars * 10 ** (6 if key.endswith("_mtok") else 12)
                    if (provider.id, model.id, key, dollars) in rounded:
                        assert abs(picodollars - exact) <= Decimal("0.5")
                    else:
                        assert picodollars == exact
    assert rates == 7_994


def test_only_reseller_noise_is_rounded() -> None:
    assert len(book().rounded) == 28
    assert {line.provider for line in book().rounded} == RESELLERS
    assert book().skipped == ()


def test_models_without_rates_are_unpriced_unless_the_overlay_says_free() -> None:
    empty = [
        model
        for document in documents().values()
        for model in document["models"]
        if not any(row for _, row in model["rows"])
    ]

    assert len(empty) == 179
    assert all(model["id"] == "moderation" or model["id"].endswith(":free") for model in empty if model.get("free"))


def test_compiling_again_gives_the_same_bytes_in_any_process() -> None:
    script = "import sys, control_plane.prices.book as b; sys.stdout.buffer.write(b.compile_book().payload)"
    for seed in ("1", "2"):
        again = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        assert again.stdout == book().payload


def test_the_version_names_the_package_and_what_was_compiled() -> None:
    package_version, _, overlay = book().version.partition("+ov:")

    assert package_version == "genai-prices@0.2.3"
    assert len(overlay) == 8
    assert table().version == book().version


def test_another_overlay_is_another_version() -> None:
    ours = load_overlay()
    changed = type(ours)(**{**{name: getattr(ours, name) for name in ours.__slots__}, "free": ()})

    assert compiler.compile_book(changed).version != book().version


def test_there_is_no_float_in_the_payload() -> None:
    def walk(value: Any) -> None:
        assert not isinstance(value, float)
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(each)

    for line in book().payload.split(b"\n"):
        walk(orjson.loads(line))


def test_every_line_of_the_overlay_is_sourced_and_is_about_models_of_the_book() -> None:
    overlay = load_overlay()
    ids = [(provider, model["id"]) for provider, document in documents().items() for model in document["models"]]

    for line in overlay.lines():
        for glob in line.models:
            single = type(line)(**{**{name: getattr(line, name) for name in _fields(line)}, "models": (glob,)})
            assert any(single.covers(provider, model) for provider, model in ids), (line.provider, glob)
    sources = [line.source for line in overlay.lines()]
    sources += [line.source for line in overlay.models] + [line.source for line in overlay.prefixes]
    assert all(source.startswith("https://") for source in sources)
    assert {bucket for line in overlay.inherits for bucket in line.buckets} <= TOKEN_KEYS


def _fields(line: Any) -> list[str]:
    return list(line.__dataclass_fields__)


def test_a_model_with_a_rate_we_cannot_charge_is_left_unpriced() -> None:
    compile_model = compiler._Compiler(load_overlay())
    model = package.ModelInfo(
        id="new",
        match=package.ClauseEquals("new"),
        prices=package.ModelPrice(input_mtok=Decimal(1), input_gpixels=Decimal(1)),
    )

    assert compile_model._model("openai", model)["rows"] == [(None, {})]
    assert compile_model.skipped == [("openai", "new", "input_gpixels")]


def test_a_fee_with_tiers_is_one_we_cannot_charge() -> None:
    compile_model = compiler._Compiler(load_overlay())
    tiered = package.TieredPrices(Decimal(1), [package.Tier(10, Decimal(2))])
    model = package.ModelInfo(
        id="new", match=package.ClauseEquals("new"), prices=package.ModelPrice(web_searches_kcount=tiered)
    )

    assert compile_model._model("openai", model)["rows"] == [(None, {})]


def test_a_rate_with_more_than_six_decimals_is_rounded_half_up_and_listed() -> None:
    compile_model = compiler._Compiler(load_overlay())

    assert compile_model._picodollars("p", "m", "input_mtok", Decimal("0.0000005")) == 1
    assert compile_model._picodollars("p", "m", "input_mtok", Decimal("0.0000004")) == 0
    assert compile_model._picodollars("p", "m", "web_searches_kcount", Decimal(10)) == 10**13
    assert [line.dollars for line in compile_model.rounded] == [Decimal("0.0000005"), Decimal("0.0000004")]


def test_hours_of_audio_in_are_charged_before_hours_of_audio() -> None:
    compile_model = compiler._Compiler(load_overlay())
    one_way = package.ModelPrice(audio_hours=Decimal(1), input_audio_hours=Decimal(2))
    or_the_other = package.ModelPrice(input_audio_hours=Decimal(2), audio_hours=Decimal(1))

    assert compile_model._row("p", "m", one_way) == {"audio_ms": 2 * 10**12}
    assert compile_model._row("p", "m", or_the_other) == {"audio_ms": 2 * 10**12}


def test_only_regular_expressions_keep_their_case() -> None:
    clause = package.ClauseAnd([package.ClauseStartsWith("GPT"), package.ClauseOr([package.ClauseRegex("[A-Z]$")])])

    assert compiler._clause(clause) == ["and", [["starts_with", "gpt"], ["or", [["regex", "[A-Z]$"]]]]]


def test_exact_names_are_split_from_patterns() -> None:
    clause = package.ClauseOr(
        [
            package.ClauseEquals("A"),
            package.ClauseOr([package.ClauseEquals("a"), package.ClauseContains("b")]),
        ]
    )

    assert compiler._split(clause) == (["a"], ["contains", "b"])
    assert compiler._split(package.ClauseContains("B")) == ([], ["contains", "b"])


def test_times_of_day_in_other_zones_become_utc() -> None:
    east = timezone(timedelta(hours=8))
    constraint = package.TimeOfDateConstraint(time(0, 30, tzinfo=east), time(12, 0))

    assert compiler._when(constraint) == [(16 * 60 + 30) * 60_000, 12 * 3_600_000]


def test_every_fee_has_a_unit_that_divides_the_common_denominator() -> None:
    assert all(9_000_000_000 % units == 0 for units in UNITS_PER_RATE.values())
    assert set(compiler.KEYS.values()) <= TOKEN_KEYS | set(UNITS_PER_RATE)
