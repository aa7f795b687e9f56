"""Budget windows: which half-open interval `[start, end)` an instant belongs to. Pure; nobody resets anything.

Calendar windows begin at local midnight; anniversary windows at the anchor's local wall time plus k periods, computed
from the anchor so that month ends do not drift. A local time that does not exist moves forward by the gap, one that
exists twice is the first (PEP 495, `fold=0`). A window of length zero is skipped.
"""

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, Literal
from zoneinfo import ZoneInfo

Period = Literal["none", "hour", "day", "week", "month", "quarter", "year"]
Alignment = Literal["calendar", "anniversary"]

PERIODS: Final[tuple[Period, ...]] = ("none", "hour", "day", "week", "month", "quarter", "year")
FOREVER: Final = (0, 0)
"""The bounds of a budget without a window: an end of 0 means it never ends."""

_MONTHS: Final[dict[str, int]] = {"month": 1, "quarter": 3, "year": 12}
_DAYS: Final[dict[str, int]] = {"day": 1, "week": 7}
_HOUR_MS: Final = 3_600_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MONDAY: Final = datetime(1970, 1, 5).toordinal()  # noqa: DTZ001 - a calendar day, not an instant


@dataclass(frozen=True, slots=True)
class Window:
    """How a budget's time is cut. `anchor_ms` is used by anniversaries, `reset_at_ms` is the last manual reset."""

    period: Period = "none"
    alignment: Alignment = "calendar"
    timezone: str = "UTC"
    anchor_ms: int = 0
    reset_at_ms: int = 0


def bounds(window: Window, now_ms: int) -> tuple[int, int]:
    """`(start, end)` in UTC milliseconds with `start <= now < end`; an end of 0 means never.

    A manual reset moves the start forward within the window; it does not move the end.
    """
    start, end = FOREVER if window.period == "none" else _natural(window, now_ms)
    return (window.reset_at_ms, end) if start < window.reset_at_ms <= now_ms else (start, end)


def _natural(window: Window, now_ms: int) -> tuple[int, int]:
    k = _guess(window, now_ms)
    while _boundary(window, k) > now_ms:
        k -= 1
    while _boundary(window, k + 1) <= now_ms:
        k += 1
    return _boundary(window, k), _boundary(window, k + 1)


def _guess(window: Window, now_ms: int) -> int:
    """A period index near the right one; the caller corrects it by a step or two."""
    if window.period == "hour":
        return (now_ms - _origin_ms(window)) // _HOUR_MS
    local, origin = _local(now_ms, window.timezone), _origin(window)
    if window.period in _DAYS:
        return (local.toordinal() - origin.toordinal()) // _DAYS[window.period]
    return ((local.year - origin.year) * 12 + local.month - origin.month) // _MONTHS[window.period]


def _boundary(window: Window, k: int) -> int:
    """The instant at which period number `k` begins."""
    if window.period == "hour":
        return _origin_ms(window) + k * _HOUR_MS
    origin = _origin(window)
    if window.period in _DAYS:
        return _instant(origin + timedelta(days=k * _DAYS[window.period]), window.timezone)
    months = origin.year * 12 + origin.month - 1 + k * _MONTHS[window.period]
    year, month = months // 12, months % 12 + 1
    day = min(origin.day, calendar.monthrange(year, month)[1])
    return _instant(origin.replace(year=year, month=month, day=day), window.timezone)


def _origin_ms(window: Window) -> int:
    return window.anchor_ms if window.alignment == "anniversary" else 0


def _origin(window: Window) -> datetime:
    """The local wall time that period 0 begins at."""
    if window.alignment == "anniversary":
        return _local(window.anchor_ms, window.timezone)
    return datetime.fromordinal(_MONDAY) if window.period == "week" else datetime(1970, 1, 1)  # noqa: DTZ001 - wall time


def _local(instant_ms: int, zone: str) -> datetime:
    """The wall time in `zone` without its zone, to the millisecond."""
    utc = _EPOCH + timedelta(milliseconds=instant_ms)
    return utc.astimezone(_zone(zone)).replace(tzinfo=None)


def _instant(wall: datetime, zone: str) -> int:
    return (wall.replace(tzinfo=_zone(zone), fold=0) - _EPOCH) // timedelta(milliseconds=1)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)
