"""Amounts: one rounding, exact parsing, no floats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import format_dollars, parse_dollars, round_half_up, round_up


@pytest.mark.parametrize(
    ("picodollars", "microdollars"),
    [(0, 0), (1, 0), (499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2), (28_950_000, 29)],
)
def test_picodollars_are_rounded_half_up_once(picodollars: int, microdollars: int) -> None:
    assert round_half_up(picodollars) == microdollars


@pytest.mark.parametrize(("picodollars", "microdollars"), [(0, 0), (1, 1), (1_000_000, 1), (1_000_001, 2)])
def test_a_bound_is_rounded_up(picodollars: int, microdollars: int) -> None:
    assert round_up(picodollars) == microdollars


def test_every_cent_from_zero_to_a_thousand_dollars_converts_exactly() -> None:
    for cents in range(100_001):
        assert parse_dollars(f"{cents // 100}.{cents % 100:02d}") == cents * 10_000


@pytest.mark.parametrize("text", ["", "-1", "1e3", "0.0000001", "NaN", "1,000", "12.", ".5", "\uff11"])
def test_what_is_no_amount_in_dollars_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount in dollars"):
        parse_dollars(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_what_is_shown_reads_back_as_the_same_amount(amount: int) -> None:
    assert parse_dollars(format_dollars(amount).replace(",", "")) == amount


def test_dollars_are_shown_with_the_decimals_they_need() -> None:
    assert format_dollars(2_010_000) == "$2.01"
    assert format_dollars(1) == "$0.000001"
    assert format_dollars(-1_500_000) == "-$1.50"
    assert format_dollars(447_690, decimals_min=6) == "$0.447690"
