"""Instants on the wire (RFC 3339, UTC, `Z`) and in the ledger (milliseconds), and the names of time zones. Pure."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import available_timezones

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_ms(milliseconds: int) -> datetime:
    """Raises OverflowError for instants no calendar has."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def to_ms(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(milliseconds=1)


def iso(instant: datetime) -> str:
    """`2026-04-02T10:00:00.123Z`"""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"


def iso_micros(instant: datetime) -> str:
    """As `iso`, with microseconds: a cursor needs them, or rows of one millisecond are lost or repeated."""
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def iso_ms(milliseconds: int) -> str:
    return iso(from_ms(milliseconds))


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(name for name in available_timezones() if name[0].isupper() and name != "Factory")


def is_timezone(name: str) -> bool:
    """An IANA name; `localtime`, `posixrules` and other files of the machine are none."""
    return name in _zones()
