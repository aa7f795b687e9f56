"""Windows: the table of known answers, and what holds in every zone."""

from datetime import UTC, datetime
from zoneinfo import available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.windows import Alignment, Period, Window, bounds

HOUR_MS = 3_600_000
LONGEST_MS = {"hour": HOUR_MS, "day": 50 * HOUR_MS, "week": 195 * HOUR_MS, "month": 770 * HOUR_MS}


def ms(text: str) -> int:
    """`2026-02-15T12:00Z` in milliseconds."""
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)


def calendar(period: Period, zone: str = "UTC") -> Window:
    return Window(period, "calendar", zone)


def anniversary(period: Period, anchor: str, zone: str = "UTC") -> Window:
    return Window(period, "anniversary", zone, ms(anchor))


END_OF_JANUARY = anniversary("month", "2026-01-31T10:00Z")
LEAP_DAY = anniversary("year", "2024-02-29T00:00Z")
LATE_IN_NEW_YORK = anniversary("month", "2026-01-31T23:30-05:00", "America/New_York")
IN_THE_GAP = anniversary("day", "2026-01-10T02:30-05:00", "America/New_York")
IN_THE_OVERLAP = anniversary("day", "2026-01-10T01:30-05:00", "America/New_York")

VECTORS = [
    ("1", calendar("month"), "2026-02-15T12:00Z", "2026-02-01T00:00Z", "2026-03-01T00:00Z"),
    ("2", calendar("month", "Asia/Kolkata"), "2026-02-28T18:29:59.999Z", "2026-01-31T18:30Z", "2026-02-28T18:30Z"),
    ("3", calendar("month", "Asia/Kolkata"), "2026-02-28T18:30Z", "2026-02-28T18:30Z", "2026-03-31T18:30Z"),
    ("4", calendar("day", "America/New_York"), "2026-03-08T12:00Z", "2026-03-08T05:00Z", "2026-03-09T04:00Z"),
    ("5", calendar("day", "Europe/Paris"), "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
    ("6", calendar("day", "Asia/Beirut"), "2026-03-29T12:00Z", "2026-03-28T22:00Z", "2026-03-29T21:00Z"),
    ("7", calendar("day", "Pacific/Apia"), "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
    ("8", calendar("week"), "2026-01-01T00:00Z", "2025-12-29T00:00Z", "2026-01-05T00:00Z"),
    ("9", calendar("quarter"), "2026-11-22T02:00Z", "2026-10-01T00:00Z", "2027-01-01T00:00Z"),
    ("10a", END_OF_JANUARY, "2026-02-28T09:59Z", "2026-01-31T10:00Z", "2026-02-28T10:00Z"),
    ("10b", END_OF_JANUARY, "2026-02-28T10:00Z", "2026-02-28T10:00Z", "2026-03-31T10:00Z"),
    ("11", END_OF_JANUARY, "2026-04-10T00:00Z", "2026-03-31T10:00Z", "2026-04-30T10:00Z"),
    ("12", LEAP_DAY, "2026-11-22T00:00Z", "2026-02-28T00:00Z", "2027-02-28T00:00Z"),
    ("13", LEAP_DAY, "2028-02-29T00:00Z", "2028-02-29T00:00Z", "2029-02-28T00:00Z"),
    ("14", LATE_IN_NEW_YORK, "2026-03-01T04:30Z", "2026-03-01T04:30Z", "2026-04-01T03:30Z"),
    ("15", IN_THE_GAP, "2026-03-08T07:30Z", "2026-03-08T07:30Z", "2026-03-09T06:30Z"),
    ("16", IN_THE_OVERLAP, "2026-11-01T06:30Z", "2026-11-01T05:30Z", "2026-11-02T06:30Z"),
]


@pytest.mark.parametrize(
    ("window", "now", "start", "end"), [row[1:] for row in VECTORS], ids=[row[0] for row in VECTORS]
)
def test_a_window_is_the_one_of_the_table(window: Window, now: str, start: str, end: str) -> None:
    assert bounds(window, ms(now)) == (ms(start), ms(end))


def test_a_budget_without_a_window_counts_from_the_beginning_and_never_ends() -> None:
    for now_ms in (0, 1, ms("2026-02-15T12:00Z"), ms("2500-01-01T00:00Z")):
        assert bounds(Window(), now_ms) == (0, 0)


def test_a_reset_moves_the_start_within_its_window_and_nowhere_else() -> None:
    reset = ms("2026-02-10T00:00Z")
    window = Window("month", reset_at_ms=reset)
    assert bounds(window, reset - 1) == (ms("2026-02-01T00:00Z"), ms("2026-03-01T00:00Z"))
    assert bounds(window, reset) == (reset, ms("2026-03-01T00:00Z"))
    assert bounds(window, ms("2026-03-01T00:00Z")) == (ms("2026-03-01T00:00Z"), ms("2026-04-01T00:00Z"))
    assert bounds(Window(reset_at_ms=reset), reset + 1) == (reset, 0)


# ------------------------------------------------------------------------------------------ properties

ZONES = sorted(available_timezones() - {"localtime", "posixrules", "Factory"})
instants = st.integers(ms("1971-06-01T00:00Z"), ms("2120-01-01T00:00Z"))
periods: st.SearchStrategy[Period] = st.sampled_from(("hour", "day", "week", "month", "quarter", "year"))
alignments: st.SearchStrategy[Alignment] = st.sampled_from(("calendar", "anniversary"))
windows = st.builds(Window, period=periods, alignment=alignments, timezone=st.sampled_from(ZONES), anchor_ms=instants)


@given(windows, instants)
def test_an_instant_lies_in_its_window(window: Window, now_ms: int) -> None:
    start_ms, end_ms = bounds(window, now_ms)
    assert start_ms <= now_ms < end_ms
    assert end_ms - start_ms <= LONGEST_MS.get(window.period, 9000 * HOUR_MS)


@given(windows, instants)
def test_consecutive_windows_tile_time(window: Window, now_ms: int) -> None:
    start_ms, end_ms = bounds(window, now_ms)
    assert bounds(window, end_ms)[0] == end_ms
    assert bounds(window, start_ms - 1)[1] == start_ms


@given(windows, instants, st.floats(0, 1, exclude_max=True))
def test_every_instant_of_a_window_gives_the_same_window(window: Window, now_ms: int, share: float) -> None:
    start_ms, end_ms = found = bounds(window, now_ms)
    assert bounds(window, start_ms) == bounds(window, end_ms - 1) == found
    assert bounds(window, start_ms + int((end_ms - start_ms) * share)) == found


@given(windows, instants, instants)
def test_a_reset_never_moves_an_end_nor_another_window(window: Window, reset_ms: int, now_ms: int) -> None:
    natural = bounds(window, now_ms)
    moved = Window(window.period, window.alignment, window.timezone, window.anchor_ms, reset_ms)
    start_ms, end_ms = bounds(moved, now_ms)
    assert end_ms == natural[1]
    assert start_ms == (reset_ms if natural[0] < reset_ms <= now_ms else natural[0])
