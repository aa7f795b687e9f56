"""What each bucket of usage costs under one row, one context and one tier.

Where a bucket has no rate of its own it takes its parent's. Where that may be wrong it is named among the gaps.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

DENOMINATOR: Final = 9_000_000_000
"""Common to all units of fees, so that fees of different units add up exactly."""
UNITS_PER_RATE: Final[Mapping[str, int]] = {
    "web_search": 1_000,
    "file_search": 1_000,
    "code_session": 1_000,
    "request": 1_000,
    "images": 1_000,
    "pages": 1_000,
    "characters": 1_000_000,
    "audio_ms": 3_600_000,
}
"""A fee in a row is an integer of picodollars per this many units. `request` is charged once per model run."""
TOKEN_KEYS: Final = frozenset(
    {
        "input",
        "input_audio",
        "input_image",
        "input_video",
        "cache_read",
        "cache_read_audio",
        "cache_read_image",
        "cache_write",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "output_audio",
        "output_image",
        "output_video",
        "reasoning",
    }
)
"""A rate in a row under one of these keys is an integer of picodollars per token."""


@dataclass(slots=True)
class Rates:
    """Tokens in picodollars, fees in picodollars times `DENOMINATOR`; 0 where there is no rate.

    `reasoning_extra` is what a reasoning token costs beyond an output token, negative where it is cheaper.
    """

    input: int = 0
    input_audio: int = 0
    input_image: int = 0
    input_video: int = 0
    cache_read: int = 0
    cache_read_audio: int = 0
    cache_read_image: int = 0
    cache_write: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    output: int = 0
    output_audio: int = 0
    output_image: int = 0
    output_video: int = 0
    reasoning: int = 0
    reasoning_extra: int = 0
    web_search: int = 0
    file_search: int = 0
    code_session: int = 0
    grounded: int = 0
    request: int = 0
    images: int = 0
    pages: int = 0
    characters: int = 0
    audio_ms: int = 0
    audio_ms_min: int = 0
    """A run with any audio is charged for at least this much of it."""
    text_gaps: tuple[str, ...] = ()
    """Buckets whose charge is a guess, the parent's rate or nothing at all: of text; and so on."""
    write_gaps: tuple[str, ...] = ()
    media_gaps: tuple[str, ...] = ()
    fee_gaps: tuple[str, ...] = ()


def resolve(row: Mapping[str, int], *, inherits: Collection[str] = (), audio_ms_min: int = 0) -> Rates:
    """The rates of every bucket from the row of one tier.

    `inherits` names buckets for which the parent's rate is the published one, so that they are no gap. Images, video
    and documents are input like text unless a row says otherwise; audio, and anything but text as output, is not.
    """
    gaps: list[str] = []

    def rate(bucket: str, parent: int | None, *, guess: bool) -> int | None:
        own = row.get(bucket)
        if own is None and (parent is None or (guess and bucket not in inherits)):
            gaps.append(bucket)
        return parent if own is None else own

    def fee(name: str) -> int:
        own = row.get(name)
        if own is None:
            gaps.append(name)
            return 0
        return own * (DENOMINATOR // UNITS_PER_RATE[name])

    text = rate("input", None, guess=False)
    audio = rate("input_audio", text, guess=True)
    read_own, audio_own, image_own = row.get("cache_read"), row.get("input_audio"), row.get("input_image")
    write = rate("cache_write", text, guess=False)
    out = rate("output", None, guess=False)
    reasoning = row.get("reasoning", out)
    rates = Rates(
        input=text or 0,
        input_audio=audio or 0,
        input_image=rate("input_image", text, guess=False) or 0,
        input_video=rate("input_video", text, guess=False) or 0,
        cache_read=rate("cache_read", text, guess=False) or 0,
        # Without a discount for cached audio, audio costs what audio costs; which of two rates applies is a guess.
        cache_read_audio=rate(
            "cache_read_audio",
            _dearest(audio_own, read_own, text),
            guess="input_audio" not in inherits if audio_own is None else read_own is not None,
        )
        or 0,
        cache_read_image=rate("cache_read_image", _dearest(image_own, read_own, text), guess=False) or 0,
        cache_write=write or 0,
        cache_write_5m=rate("cache_write_5m", write, guess=False) or 0,
        cache_write_1h=rate("cache_write_1h", write, guess=True) or 0,
        output=out or 0,
        output_audio=rate("output_audio", out, guess=True) or 0,
        output_image=rate("output_image", out, guess=True) or 0,
        output_video=rate("output_video", out, guess=True) or 0,
        reasoning=reasoning or 0,
        reasoning_extra=(reasoning or 0) - (out or 0),
        web_search=fee("web_search"),
        file_search=fee("file_search"),
        code_session=fee("code_session"),
        request=row.get("request", 0) * (DENOMINATOR // UNITS_PER_RATE["request"]),
        images=fee("images"),
        pages=fee("pages"),
        characters=fee("characters"),
        audio_ms=fee("audio_ms"),
        audio_ms_min=audio_ms_min,
    )
    rates.grounded = rates.web_search
    if "web_search" in gaps:
        gaps.append("grounded")
    rates.text_gaps = tuple(name for name in gaps if name in {"input", "cache_read", "output"})
    rates.write_gaps = tuple(name for name in gaps if name.startswith("cache_write"))
    rates.media_gaps = tuple(name for name in gaps if name.endswith(("_audio", "_image", "_video")))
    rates.fee_gaps = tuple(name for name in gaps if name in UNITS_PER_RATE or name == "grounded")
    return rates


def _dearest(first: int | None, second: int | None, otherwise: int | None) -> int | None:
    return max((rate for rate in (first, second) if rate is not None), default=otherwise)
