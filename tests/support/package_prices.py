"""The price package as an oracle: our usage in its terms, and its exact cost of it. Also the one compiled table."""

import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache

from genai_prices import Usage as PackageUsage
from genai_prices import calc_price

from control_plane.prices.book import CompiledBook, compile_book
from shared.prices.table import PriceTable
from shared.prices.usage import PriceContext, Usage, UsagePart


@cache
def book() -> CompiledBook:
    return compile_book()


@cache
def table() -> PriceTable:
    return PriceTable.load(book().payload)


def package_usage(usage: Usage) -> PackageUsage:
    """The package counts inclusively: every total contains its parts."""
    cached_audio, cached_image = usage.cache_read_audio, usage.cache_read_image
    writes = usage.cache_write + usage.cache_write_5m + usage.cache_write_1h
    seconds = Decimal(usage.audio_ms) / 1000
    return PackageUsage(
        input_tokens=usage.input_total,
        input_audio_tokens=usage.input_audio + cached_audio,
        input_image_tokens=usage.input_image + cached_image,
        input_video_tokens=usage.input_video,
        cache_read_tokens=usage.cached_total,
        cache_audio_read_tokens=cached_audio,
        cache_image_read_tokens=cached_image,
        cache_write_tokens=writes,
        cache_write_5m_tokens=usage.cache_write_5m,
        cache_write_1h_tokens=usage.cache_write_1h,
        output_tokens=usage.output_total,
        output_audio_tokens=usage.output_audio,
        output_image_tokens=usage.output_image,
        output_video_tokens=usage.output_video,
        output_reasoning_tokens=usage.reasoning,
        web_searches=usage.web_search + usage.grounded,
        storage_searches=usage.file_search,
        code_executions=usage.code_session,
        input_characters=usage.characters,
        audio_seconds=seconds,
        input_audio_seconds=seconds,
        input_document_pages=usage.pages,
    )


def package_context(context: PriceContext) -> dict[str, str]:
    asked: dict[str, str] = {}
    if context.service_tier == "batch":
        asked["processing"] = "batch"
    elif context.service_tier:
        asked["service_tier"] = context.service_tier
    if context.speed:
        asked["speed"] = context.speed
    return asked


def package_microdollars(
    provider: str, model: str, *, at: datetime, parts: Sequence[UsagePart], context: PriceContext
) -> Decimal:
    """The package's cost of all parts, unrounded. LookupError where it has no such model."""
    total = Decimal(0)
    for part in parts:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            price = calc_price(
                package_usage(part.usage),
                part.model or model,
                provider_id=provider,
                genai_request_timestamp=at,
                price_context=package_context(context),
            )
        total += price.total_price * 1_000_000
    return total


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
