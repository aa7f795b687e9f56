"""Counts in a provider's usage report, judged: whole and not negative, and no part larger than its whole."""

from typing import Any, Final

from data_plane.providers.dialect import Reading
from shared.prices.usage import STANDARD, PriceContext, Usage

COUNT_MAX: Final = 10**11
"""Beyond this a count is no measurement."""

_STANDARD_TIERS: Final = frozenset({
    "auto", "default", "standard", "standard_only", "on_demand", "unspecified", "service_tier_unspecified",
})  # fmt: skip


class BadCount(ValueError):
    """A report with such a count is no usage at all."""


def count(report: dict[str, Any], key: str) -> int:
    """A count, 0 when it is absent or null. Raises BadCount for anything but a whole number."""
    value = report.get(key)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise BadCount(key)
    return value


def details(report: dict[str, Any], key: str) -> dict[str, Any]:
    value = report.get(key)
    return value if isinstance(value, dict) else {}


def within(child: int, parent: int, reading: Reading) -> int:
    """`child`, at most `parent`; a report that needs the cut is flagged."""
    if child <= parent:
        return child
    reading.flag("usage_inconsistent")
    return parent


def fill_input(usage: Usage, total: int) -> None:
    """Sets the text input to what is left of `total`. What is both media and cached is counted once, as cached."""
    excess = usage.input_total - total
    if excess > 0:
        audio = min(excess, usage.input_audio, usage.cache_read)
        image = min(excess - audio, usage.input_image, usage.cache_read - audio)
        video = min(excess - audio - image, usage.input_video)
        usage.input_audio -= audio
        usage.input_image -= image
        usage.input_video -= video
        usage.cache_read -= audio + image
        usage.cache_read_audio += audio
        usage.cache_read_image += image
    usage.input = max(0, total - usage.input_total)


def tier(value: Any) -> str:
    """A service tier, lower case; the standard ones are `""`."""
    if not isinstance(value, str):
        return ""
    name = value.lower()
    return "" if name in _STANDARD_TIERS else name


def context(service_tier: str = "", speed: str = "", geo: str = "") -> PriceContext:
    """The shared standard context where nothing deviates: prices are looked up by identity there."""
    if not (service_tier or speed or geo):
        return STANDARD
    return PriceContext(service_tier, speed, geo)
