"""What a call used, in one normal form of disjoint buckets, whichever provider reported it.

A token is counted in exactly one bucket. `reasoning` alone is informational: it is a part of `output`.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Usage:
    """Token buckets (disjoint) and counters of fees. All integers, none negative.

    `input` is uncached text input. `cache_write` is a write whose lifetime the provider did not say.
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
    web_search: int = 0
    file_search: int = 0
    code_session: int = 0
    grounded: int = 0
    """Replies grounded in a search, where the provider charges per reply and not per query."""
    characters: int = 0
    audio_ms: int = 0
    """Milliseconds of audio, for models priced by duration."""
    images: int = 0
    """Images made by a model priced by the image; the size and quality are part of the model's name."""
    pages: int = 0

    @property
    def input_total(self) -> int:
        """All input tokens of the request, cached and written ones included: what price tiers look at."""
        return (
            self.input
            + self.input_audio
            + self.input_image
            + self.input_video
            + self.cache_read
            + self.cache_read_audio
            + self.cache_read_image
            + self.cache_write
            + self.cache_write_5m
            + self.cache_write_1h
        )

    @property
    def cached_total(self) -> int:
        """Tokens read from a cache."""
        return self.cache_read + self.cache_read_audio + self.cache_read_image

    @property
    def output_total(self) -> int:
        """All output tokens, reasoning included."""
        return self.output + self.output_audio + self.output_image + self.output_video


@dataclass(slots=True)
class UsagePart:
    """One model run within a call. `model` is None when it is the call's own model.

    A call has several parts when the provider ran more than one (compaction, advisor): each is priced and tiered
    on its own, and the sum is rounded once.
    """

    usage: Usage
    model: str | None = None


@dataclass(frozen=True, slots=True)
class PriceContext:
    """What besides model and date decides the rate: as the reply says, else as the request asked."""

    service_tier: str = ""
    """`""` (standard), `batch`, `flex`, `priority`, …, lower case."""
    speed: str = ""
    """`""` or `fast`."""
    geo: str = ""
    """`""`, `us`, `global`, …, lower case."""


STANDARD = PriceContext()


@dataclass(slots=True)
class Metered:
    """What the meter read from a reply: enough to price it."""

    parts: list[UsagePart] = field(default_factory=list)
    context: PriceContext = STANDARD
