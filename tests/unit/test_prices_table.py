"""Finding a price: which model a name means, at what time, and what happens where there is none."""

from collections.abc import Iterator
from typing import Any

import pytest
from genai_prices import types as package
from genai_prices.data import providers as package_providers
from genai_prices.data_snapshot import get_snapshot

from control_plane.prices.overlay import load_overlay
from shared.prices.matching import Names, dashed_date, matches, spellings
from shared.prices.table import FOUND_MAX, PriceTable
from tests.support.package_prices import book, milliseconds, moment, table

NOW = milliseconds(moment("2026-11-22T12:00:00Z"))


def row_of(provider: str, model: str, at_ms: int = NOW) -> str | None:
    """`provider/model#row` of the package, as the price ref names it."""
    price = table().find(provider, model, at_ms)
    return None if price is None else price.ref.removeprefix("genai-prices@0.2.3/").partition("+")[0]


def leaves(clause: Any) -> Iterator[str]:
    """Names made from a match clause: some of them match it, all of them are close."""
    match clause:
        case package.ClauseOr():
            for part in clause.or_:
                yield from leaves(part)
        case package.ClauseAnd():
            for part in clause.and_:
                yield from leaves(part)
        case package.ClauseEquals():
            yield from (clause.equals, clause.equals.upper(), clause.equals + "x")
        case package.ClauseStartsWith():
            yield from (clause.starts_with, clause.starts_with + "-20251231", "x" + clause.starts_with)
        case package.ClauseEndsWith():
            yield from (clause.ends_with, "us." + clause.ends_with)
        case package.ClauseContains():
            yield from (clause.contains, f"us.{clause.contains}-v1:0", f"arn:aws:x/{clause.contains}")
        case package.ClauseRegex():
            stem = clause.regex.strip("^$").replace("\\", "")
            yield from (stem.replace("d{8}", "20261231"), stem.replace("d{4}-d{2}-d{2}", "2026-12-31"))


def package_row(provider: package.Provider, name: str) -> package.ModelInfo | None:
    return provider.find_model(name, all_providers=get_snapshot().providers)


@pytest.mark.parametrize("provider", package_providers, ids=lambda provider: provider.id)
def test_every_name_the_package_knows_means_the_same_model_here(provider: package.Provider) -> None:
    ours = {name for line in load_overlay().models for name in line.names}
    lenders = [each for each in package_providers if each.id in (provider.fallback_model_providers or ())]
    models = [model for each in (provider, *lenders) for model in each.models]
    for name in {name for model in models for name in (model.id, *leaves(model.match))} - ours:
        theirs = package_row(provider, name)
        if theirs is None or name.lower() in ours:
            continue
        entry = table()._entry(provider.id, name)
        assert entry is not None
        assert entry.id == theirs.id
        at = moment("2026-11-22T12:00:00Z")
        assert (table().find(provider.id, name, NOW) is None) == (not vars(theirs.get_prices(at)) and not entry.free)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("openai", "openai"),
        ("anthropic", "anthropic"),
        ("google", "google"),
        ("azure", "azure"),
        ("groq", "groq"),
        ("mistral", "mistral"),
        ("deepseek", "deepseek"),
        ("openrouter", "openrouter"),
        ("together", "together"),
        ("fireworks", "fireworks"),
        ("xai", "x-ai"),
        ("bedrock", "aws"),
        ("vertex", "google"),
    ],
)
def test_our_provider_ids_mean_the_packages(ours: str, theirs: str) -> None:
    assert table().models(ours) == table().models(theirs) != []
    assert get_snapshot().find_provider(None, ours, None).id == theirs


@pytest.mark.parametrize(
    ("provider", "model", "row"),
    [
        ("openai", "gpt-4o", "openai/gpt-4o#0"),
        ("openai", "GPT-4o-2024-11-20", "openai/gpt-4o#0"),
        ("openai", "gpt-4o-20241120", "openai/gpt-4o#0"),
        ("openai", "gpt-4o-2024-05-13", "openai/gpt-4o-2024-05-13#0"),
        ("openai", "gpt-5-search-api-2025-10-14", "openai/gpt-5-search-api#0"),
        ("openai", "o3", "openai/o3#1"),
        ("anthropic", "claude-opus-4-6@20260205", "anthropic/claude-opus-4-6#1"),
        ("google", "models/gemini-2.5-flash", "google/gemini-2.5-flash#0"),
        ("vertex", "google/gemini-2.5-flash", "google/gemini-2.5-flash#0"),
        ("vertex", "claude-sonnet-4-5@20250929", "google/claude-sonnet-4-5#0"),
        ("azure", "gpt-5", "openai/gpt-5#0"),
        ("azure", "o4-mini-eu", "azure/o4-mini#0"),
        ("xai", "grok-4.3", "x-ai/grok-4.3#0"),
        ("openai", "gpt-4o-mini-search-preview", "overlay/openai/gpt-4o-mini-search-preview#0"),
    ],
)
def test_a_name_means_a_row(provider: str, model: str, row: str) -> None:
    price = table().find(provider, model, NOW)
    assert price is not None
    assert price.ref.endswith("+" + book().version.partition("+")[2])
    assert row_of(provider, model) == row


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-9-ultra"),
        ("openai", ""),
        ("openai", "gpt-4o" + "x" * 1_000),
        ("nobody", "gpt-4o"),
        ("google", "gemma-3-27b-it"),
        ("openai", "gpt-4o-2024-13-99x"),
    ],
)
def test_what_has_no_row_or_no_rates_is_unpriced(provider: str, model: str) -> None:
    assert table().find(provider, model, NOW) is None
    assert table().find(provider, model, NOW) is None


def test_a_free_model_has_a_price_of_nothing() -> None:
    price = table().find("openai", "omni-moderation-latest", NOW)

    assert price is not None
    assert price.free


@pytest.mark.parametrize(
    ("provider", "model", "before", "after", "rows"),
    [
        ("google", "gemini-3.8-flash", "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00Z", (0, 1)),
        ("deepseek", "deepseek-v4-pro", "2026-11-22T03:59:59.999Z", "2026-11-22T04:00:00Z", (2, 1)),
        ("deepseek", "deepseek-v4-pro", "2026-11-22T05:59:59.999Z", "2026-11-22T06:00:00Z", (1, 3)),
        ("deepseek", "deepseek-v4-pro", "2026-08-16T00:59:59.999Z", "2026-08-17T00:00:00Z", (0, 1)),
        ("anthropic", "claude-sonnet-4-6", "2026-03-12T23:59:59.999Z", "2026-03-13T00:00:00Z", (0, 1)),
    ],
)
def test_a_row_is_in_force_to_the_millisecond_whatever_was_asked_before(
    provider: str, model: str, before: str, after: str, rows: tuple[int, int]
) -> None:
    fresh = PriceTable.load(book().payload)
    for text, row in ((before, rows[0]), (after, rows[1]), (before, rows[0]), (after, rows[1])):
        price = fresh.find(provider, model, milliseconds(moment(text)))
        assert price is not None
        assert f"#{row}+" in price.ref


def test_times_of_day_that_span_midnight_hold_on_both_sides_of_it() -> None:
    payload = book().payload.replace(b"[3600000,14400000]", b"[82800000,14400000]")
    night = PriceTable.load(payload)

    def row(text: str) -> str:
        price = night.find("deepseek", "deepseek-v4-pro", milliseconds(moment(text)))
        assert price is not None
        return price.ref.partition("#")[2].partition("+")[0]

    assert [row(f"2026-11-22T{at}:00Z") for at in ("22:59", "23:00", "00:00", "03:59", "04:00")] == list("12221")


def test_variants_begin_on_their_date() -> None:
    early = table().find("openai", "gpt-4o", milliseconds(moment("2026-10-11T23:59:59Z")))
    late = table().find("openai", "gpt-4o", milliseconds(moment("2026-10-12T00:00:00Z")))

    assert early is not late
    assert early is not None
    assert late is not None
    assert early.ref == late.ref


def test_what_is_remembered_is_bounded() -> None:
    fresh = PriceTable.load(book().payload)
    for number in range(FOUND_MAX + 100):
        fresh.find("nobody", f"nothing-{number}", NOW)
        fresh.nearest("nobody", f"nothing-{number}")

    assert len(fresh._nearest) <= FOUND_MAX
    assert len(fresh._found) <= FOUND_MAX
    assert fresh.find("openai", "gpt-4o", NOW) is not None


def test_the_nearest_names_are_priced_models_that_resemble_the_one_asked_for() -> None:
    assert table().nearest("openai", "gtp-4o")[0] == "gpt-4o"
    assert table().nearest("openai", "gpt-9-ultra", n=2) == table().nearest("openai", "GPT-9-ultra", n=2)
    assert all(table().find("openai", name, NOW) for name in table().nearest("openai", "gpt-9-ultra"))
    assert table().nearest("anthropic", "claude-opus-9")[0].startswith("claude-opus")
    assert table().nearest("nobody", "gpt-4o") == []


def test_bytes_that_are_no_table_are_refused() -> None:
    for payload in (b'{"format":99}', b"[]"):
        with pytest.raises(ValueError, match="not a price table"):
            PriceTable.load(payload)


def test_ceilings_and_windows_come_with_the_price() -> None:
    price = table().find("openai", "gpt-5", NOW)

    assert price is not None
    assert (price.model, price.context_window, price.output_tokens_max) == ("gpt-5", 400_000, 128_000)


def test_the_table_lists_its_providers_and_models() -> None:
    assert {"openai", "x-ai", "aws"} <= set(PriceTable.load(book().payload).providers())
    assert "gpt-4o" in table().models("openai")
    assert "gemma-3" not in table().models("google")


def test_the_first_model_that_matches_wins_whether_by_name_or_by_pattern() -> None:
    names = Names(
        [
            {"id": "early", "match": ["starts_with", "gpt-4"]},
            {"id": "GPT-4o"},
            {"id": "late", "names": [], "match": ["contains", "o"]},
        ]
    )

    assert [names.find(name) for name in ("early", "gpt-4o", "o3", "x")] == [0, 0, 2, None]


def test_our_spellings_try_the_name_first_then_without_path_and_date() -> None:
    assert spellings("google/gemini-9-20260101", ["models/", "google/"]) == [
        "google/gemini-9-20260101",
        "gemini-9-20260101",
        "google/gemini-9",
        "gemini-9",
    ]
    assert spellings("gpt-4o", []) == ["gpt-4o"]


def test_only_a_real_date_gets_dashes() -> None:
    assert dashed_date("gpt-5.2-20251211") == "gpt-5.2-2025-12-11"
    assert dashed_date("gpt-5.2-20250231") == "gpt-5.2-20250231"
    assert dashed_date("gpt-5.2-20251211:free") == "gpt-5.2-2025-12-11:free"


def test_an_unknown_kind_of_clause_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown match clause"):
        matches(["sounds_like", "gpt"], "gpt")
