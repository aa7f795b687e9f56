"""The range a summary covers, and which of it whole UTC hours can answer. Pure."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

DAYS_OF: Final = {"7d": 7, "30d": 30, "90d": 90}
RANGE_MAX: Final = timedelta(days=400)
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Range:
    """Half-open. `period` is how it was asked for, None for explicit ends."""

    start: datetime
    end: datetime
    timezone: str
    period: str | None

    @property
    def before(self) -> "Range":
        """The range of the same length that ends where this one begins."""
        return Range(self.start - (self.end - self.start), self.start, self.timezone, self.period)

    def days(self) -> list[date]:
        """Every local day that the range touches."""
        zone = ZoneInfo(self.timezone)
        first = self.start.astimezone(zone).date()
        last = (self.end - timedelta(microseconds=1)).astimezone(zone).date()
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]

    def whole_hours(self) -> tuple[datetime, datetime]:
        """The part that hourly sums answer; what is outside is counted from the events.

        Empty where local midnight falls within a UTC hour, because such an hour belongs to two days.
        """
        low = -(-_since(self.start) // _HOUR)
        high = max(low, _since(self.end) // _HOUR)
        return (_at(low), _at(high if self._midnights_are_whole_hours() else low))

    def _midnights_are_whole_hours(self) -> bool:
        zone = ZoneInfo(self.timezone)
        edges = [*(datetime.combine(day, time(), zone) for day in self.days()), self.start.astimezone(zone)]
        return all((edge.utcoffset() or timedelta()) % _HOUR == timedelta() for edge in edges)


def last_days(period: str, timezone: str, now: datetime) -> Range:
    """From the local midnight that begins the first of n days, today included, to now."""
    zone = ZoneInfo(timezone)
    first = now.astimezone(zone).date() - timedelta(days=DAYS_OF[period] - 1)
    return Range(datetime.combine(first, time(), zone).astimezone(UTC), now, timezone, period)


def _since(instant: datetime) -> timedelta:
    return instant - datetime(1970, 1, 1, tzinfo=UTC)


def _at(hours: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + hours * _HOUR
