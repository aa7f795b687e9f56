"""The price of one model at one instant, and its plans: the rates of each tier under a context.

Where several rates could apply the choice is the price package's: variants first to last for each rate, and the tier
with the highest start below the request's input tokens for all of its tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.prices.rates import Rates, resolve
from shared.prices.usage import STANDARD, PriceContext

PLANS_MAX: Final = 32
"""Contexts come from requests: this many are remembered for a price, the rest are computed each time."""
Row = Mapping[str, int | Sequence[int]]
"""Rates by key: an integer, or `[base, start, rate, start, rate, …]` with ascending starts."""
CACHES: Final = {"": 0, "5m": 4, "1h": 8}
"""The dearest cache write a request can ask for, as an offset into `Plan.inputs`. Plus 1 for images, 2 for audio."""

_STANDARD_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "service_tier": frozenset({"", "default", "standard", "auto", "on_demand", "unspecified"}),
    "speed": frozenset({"", "standard"}),
    "geo": frozenset({"", "global", "not_available"}),
}
_MULTIPLIED: Final = ("input", "cache_", "output", "reasoning")


class Entry:
    """A model of the table as published: its rows, and the contexts it knows."""

    __slots__ = (
        "audio_ms_min",
        "context_window",
        "explicit_cache",
        "free",
        "geo",
        "id",
        "inherits",
        "origin",
        "output_tokens_max",
        "prices",
        "rows",
        "variants",
    )

    def __init__(self, document: Mapping[str, Any], fees: Mapping[str, int], origin: str) -> None:
        """`document` is a model of the payload, `fees` its provider's fees, `origin` the head of its price refs."""
        self.id: str = document["id"]
        self.origin = origin
        self.context_window: int | None = document.get("context_window")
        self.output_tokens_max: int | None = document.get("output_tokens_max")
        self.free: bool = document.get("free", False)
        self.explicit_cache: bool = document.get("explicit_cache", False)
        self.audio_ms_min: int = document.get("audio_ms_min", 0)
        self.inherits = frozenset(document.get("inherits", ()))
        self.geo: Mapping[str, tuple[int, int]] = document.get("geo", {})
        self.rows: tuple[tuple[Any, Row], ...] = tuple(
            (when, {**fees, **row} if row else row) for when, row in document["rows"]
        )
        self.variants: tuple[tuple[Mapping[str, str], Any, Row], ...] = tuple(
            (context, when, row) for context, when, row in document.get("variants", ())
        )
        self.prices: dict[tuple[int, tuple[int, ...]], Price | None] = {}


class Plan:
    """Rates by tier. `known` is False when a part of the context has no rate, so that the standard one is charged.

    `inputs[n]` and `outputs[n]` are the dearest rates, in picodollars per token, that a request with at most as many
    input tokens as tier n can reach; `inputs[n]` is indexed by cache and media (`CACHES`).
    """

    __slots__ = ("inputs", "known", "outputs", "rates", "starts", "tiers")

    def __init__(self, tiers: Sequence[Rates], starts: Sequence[int], *, known: bool, explicit_cache: bool) -> None:
        self.known = known
        self.starts = tuple(starts)
        self.tiers = tuple(tiers)
        self.rates = tiers[0]
        self.inputs: list[tuple[int, ...]] = []
        self.outputs: list[int] = []
        below: tuple[int, ...] = (0,) * 12
        dearest_output = 0
        for rates in tiers:
            below = tuple(map(max, below, _input_ceilings(rates, explicit_cache=explicit_cache)))
            dearest_output = max(dearest_output, *_outputs(rates))
            self.inputs.append(below)
            self.outputs.append(dearest_output)

    def tier(self, input_tokens: int) -> int:
        """The index of the tier for a request with this many input tokens: the last whose start is below."""
        index = 0
        for start in self.starts:
            if input_tokens <= start:
                break
            index += 1
        return index


class Price:
    """What a model costs at an instant. `ref` names the row; `free` costs nothing, whatever is used."""

    __slots__ = ("_entry", "_plans", "_row", "_standard", "_variants", "free", "ref")

    def __init__(self, entry: Entry, ref: str, row: Row, variants: Sequence[tuple[Mapping[str, str], Row]]) -> None:
        self.ref = ref
        self.free = entry.free
        self._entry = entry
        self._row = row
        self._variants = variants
        self._plans: dict[PriceContext, Plan] = {}
        self._standard = self._build(STANDARD)

    @property
    def model(self) -> str:
        """The canonical id."""
        return self._entry.id

    @property
    def context_window(self) -> int | None:
        """Tokens, where it is known."""
        return self._entry.context_window

    @property
    def output_tokens_max(self) -> int | None:
        """The most tokens one answer can have, where it is known."""
        return self._entry.output_tokens_max

    def plan(self, context: PriceContext) -> Plan:
        """The rates under `context`, remembered."""
        if context is STANDARD:
            return self._standard
        plan = self._plans.get(context)
        if plan is None:
            plan = self._build(context)
            if len(self._plans) < PLANS_MAX:
                self._plans[context] = plan
        return plan

    def knows(self, context: PriceContext) -> bool:
        """Whether every part of `context` has a rate of its own or is the standard one."""
        return self.plan(context).known

    def _build(self, context: PriceContext) -> Plan:
        if self.free:
            return Plan([Rates()], (), known=True, explicit_cache=True)
        asked = _asked(context)
        overrides: dict[str, int | Sequence[int]] = {}
        met: set[str] = set()
        for when, row in self._variants:
            if all(asked.get(name) == value for name, value in when.items()):
                met.update(when)
                for key, rate in row.items():
                    overrides.setdefault(key, rate)
        multiplier = self._multiplier(context.geo)
        if multiplier is not None:
            met.add("geo")
        known = all(name in met or value in _STANDARD_NAMES.get(name, ()) for name, value in asked.items())
        row = {**self._row, **overrides}
        starts = sorted({start for rate in row.values() if not isinstance(rate, int) for start in rate[1::2]})
        tiers = [self._rates(row, start, multiplier) for start in (-1, *starts)]
        return Plan(tiers, starts, known=known, explicit_cache=self._entry.explicit_cache)

    def _multiplier(self, geo: str) -> tuple[int, int] | None:
        if geo in _STANDARD_NAMES["geo"]:
            return None
        return self._entry.geo.get(geo, self._entry.geo.get("*"))

    def _rates(self, row: Row, start: int, multiplier: tuple[int, int] | None) -> Rates:
        flat = {key: rate if isinstance(rate, int) else rate_above(rate, start) for key, rate in row.items()}
        if multiplier is not None:
            numerator, denominator = multiplier
            for key, rate in flat.items():
                if key.startswith(_MULTIPLIED):
                    flat[key] = (rate * numerator * 2 + denominator) // (2 * denominator)
        return resolve(flat, inherits=self._entry.inherits, audio_ms_min=self._entry.audio_ms_min)


def rate_above(tiered: Sequence[int], start: int) -> int:
    """The rate of `[base, start, rate, …]` in the tier that begins at `start`; -1 is the tier without a start."""
    chosen = tiered[0]
    for index in range(1, len(tiered), 2):
        if tiered[index] > start:
            break
        chosen = tiered[index + 1]
    return chosen


def _asked(context: PriceContext) -> dict[str, str]:
    """The context in the price package's terms: there a batch is a way of processing, not a service tier."""
    asked = {"speed": context.speed, "geo": context.geo}
    if context.service_tier == "batch":
        asked["processing"] = "batch"
    else:
        asked["service_tier"] = context.service_tier
    return asked


def _input_ceilings(rates: Rates, *, explicit_cache: bool) -> tuple[int, ...]:
    """The dearest input rate for each entry of `CACHES`, times no media, images, audio, both.

    A model that caches by itself may charge for a write that nobody asked for.
    """
    read = max(rates.input, rates.cache_read)
    written = max(read, rates.cache_write, rates.cache_write_5m)
    image = max(rates.input_image, rates.input_video, rates.cache_read_image)
    audio = max(rates.input_audio, rates.cache_read_audio)
    ceilings: list[int] = []
    for text in (read if explicit_cache else written, written, max(written, rates.cache_write_1h)):
        ceilings += [text, max(text, image), max(text, audio), max(text, image, audio)]
    return tuple(ceilings)


def _outputs(rates: Rates) -> tuple[int, ...]:
    return rates.output, rates.output_audio, rates.output_image, rates.output_video, rates.reasoning
