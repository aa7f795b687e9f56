"""Compiles the price package and our overlay to one integer table. The only importer of `genai_prices`.

The package's decimals become picodollars. Only a rate with more than six decimals is rounded, and each is listed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

import orjson
from genai_prices import __version__ as package_version
from genai_prices import types as package
from genai_prices.data import providers as package_providers

from control_plane.prices.overlay import Overlay, OwnModel, load_overlay
from shared.prices.rates import UNITS_PER_RATE
from shared.prices.table import FORMAT

KEYS: Final[Mapping[str, str]] = {
    "input_mtok": "input",
    "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image",
    "input_video_mtok": "input_video",
    "cache_read_mtok": "cache_read",
    "cache_audio_read_mtok": "cache_read_audio",
    "cache_image_read_mtok": "cache_read_image",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write_5m",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_mtok": "output",
    "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image",
    "output_video_mtok": "output_video",
    "output_reasoning_mtok": "reasoning",
    "web_searches_kcount": "web_search",
    "storage_searches_kcount": "file_search",
    "code_executions_kcount": "code_session",
    "requests_kcount": "request",
    "input_document_kpages": "pages",
    "input_mchars": "characters",
    "audio_hours": "audio_ms",
    "input_audio_hours": "audio_ms",
}
"""The package's price keys that a usage can be charged by. The hours of audio in and of audio cost the same."""
UNCHARGED: Final = frozenset(
    {
        "input_text_messages_kcount",
        "input_annotated_document_kpages",
        "output_citation_mtok",
    }
)
"""Price keys of surfaces that are not metered (voice sessions, document recognition) or are charged as output."""

_PICODOLLARS: Final = Decimal(10**12)
_PICODOLLARS_PER_TOKEN: Final = Decimal(10**6)
_CLAUSES: Final = ("starts_with", "ends_with", "contains", "regex", "equals")


@dataclass(frozen=True, slots=True)
class Rounded:
    """A rate that is no whole number of picodollars, and what was made of it."""

    provider: str
    model: str
    key: str
    dollars: Decimal
    picodollars: int


@dataclass(frozen=True, slots=True)
class CompiledBook:
    """`payload` is what `PriceTable.load` reads.

    `skipped` are models left unpriced as (provider, model, price key): they have a rate we cannot charge.
    """

    version: str
    payload: bytes
    rounded: tuple[Rounded, ...]
    skipped: tuple[tuple[str, str, str], ...]


def compile_book(overlay: Overlay | None = None) -> CompiledBook:
    """The table of the installed package and `overlay`, ours when none is given. The same input, the same bytes."""
    compiler = _Compiler(overlay or load_overlay())
    lines = [orjson.dumps(compiler.provider(provider)) for provider in package_providers]
    header: dict[str, Any] = {
        "format": FORMAT,
        "aliases": compiler.overlay.providers,
        "prefixes": {name: line.prefixes for line in compiler.overlay.prefixes for name in line.providers},
        "providers": [provider.id for provider in package_providers],
    }
    # The digest is of what was compiled and not of the overlay alone: a table that differs never has the same version.
    digest = hashlib.sha256(b"\n".join((orjson.dumps(header), *lines))).hexdigest()
    header["version"] = f"genai-prices@{package_version}+ov:{digest[:8]}"
    payload = b"\n".join((orjson.dumps(header), *lines))
    return CompiledBook(header["version"], payload, tuple(compiler.rounded), tuple(compiler.skipped))


@dataclass(slots=True)
class _Compiler:
    overlay: Overlay
    rounded: list[Rounded] = field(default_factory=list)
    skipped: list[tuple[str, str, str]] = field(default_factory=list)

    def provider(self, provider: package.Provider) -> dict[str, Any]:
        compiled = {model.id: self._model(provider.id, model) for model in provider.models}
        own = [self._own_model(line, compiled) for line in self.overlay.models if line.provider == provider.id]
        document: dict[str, Any] = {"models": [*own, *compiled.values()]}
        if provider.fallback_model_providers:
            document["fallback"] = provider.fallback_model_providers
        fees: dict[str, int] = {}
        for line in self.overlay.fees:
            if line.provider == provider.id and line.models == ("*",):
                fees |= self._fees(provider.id, "*", line.rates)
        if fees:
            document["fees"] = fees
        return document

    def _model(self, provider: str, model: package.ModelInfo) -> dict[str, Any]:
        names, match = _split(model.match)
        document: dict[str, Any] = {"id": model.id}
        if names != [model.id.lower()]:
            document["names"] = names
        if match is not None:
            document["match"] = match
        if model.context_window is not None:
            document["context_window"] = model.context_window
        rows = model.prices
        if isinstance(rows, package.ModelPrice):
            rows = [package.ConditionalPrice(prices=rows)]
        document["rows"] = [(_when(row.constraint), self._row(provider, model.id, row.prices)) for row in rows]
        variants = [
            (variant.when, _when(variant.constraint), self._row(provider, model.id, variant.prices))
            for variant in model.price_variants or ()
        ]
        if variants:
            document["variants"] = variants
        unchargeable = sorted({key for prices in _all_prices(model) for key in _unchargeable(prices)})
        if unchargeable:
            self.skipped.append((provider, model.id, unchargeable[0]))
            document["rows"] = [(when, {}) for when, _ in document["rows"]]
        self._annotate(provider, document)
        return document

    def _own_model(self, line: OwnModel, compiled: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        rates = self._fees(line.provider, line.id, line.rates)
        document = dict(compiled[line.like]) if line.like else {"rows": [(None, {})]}
        document.pop("match", None)
        document |= {"id": line.id, "names": list(line.names), "overlay": True}
        document["rows"] = [(when, {**row, **rates}) for when, row in document["rows"]]
        self._annotate(line.provider, document)
        return document

    def _annotate(self, provider: str, document: dict[str, Any]) -> None:
        """Adds what the overlay says about one model."""
        overlay, model = self.overlay, document["id"]
        for name, numbers in (("output_tokens_max", overlay.output_tokens_max), ("audio_ms_min", overlay.audio_ms_min)):
            for number in numbers:
                if number.covers(provider, model):
                    document[name] = number.value
        priced = any(row for _, row in document["rows"])
        if not priced and any(line.covers(provider, model) for line in overlay.free):
            document["free"] = True
        for fees in overlay.fees:
            if fees.models != ("*",) and fees.covers(provider, model):
                extra = self._fees(provider, model, fees.rates)
                document["rows"] = [(when, {**extra, **row} if row else row) for when, row in document["rows"]]
        inherits = sorted(
            {bucket for line in overlay.inherits if line.covers(provider, model) for bucket in line.buckets}
        )
        if inherits:
            document["inherits"] = inherits
        geo = {line.geo: line.multiplier for line in overlay.geo if line.covers(provider, model)}
        if geo:
            document["geo"] = geo
        writes = any("cache_write" in row for _, row in document["rows"])
        if writes and any(line.covers(provider, model) for line in overlay.explicit_cache):
            document["explicit_cache"] = True

    def _row(self, provider: str, model: str, prices: package.ModelPrice) -> dict[str, int | list[int]]:
        row: dict[str, int | list[int]] = {}
        for key, value in _rates(prices):
            ours = KEYS.get(key)
            if ours is None or (key == "audio_hours" and ours in row):
                continue
            if isinstance(value, Decimal):
                row[ours] = self._picodollars(provider, model, key, value)
                continue
            rates = [self._picodollars(provider, model, key, value.base)]
            for tier in value.tiers:
                rates += [tier.start, self._picodollars(provider, model, key, tier.price)]
            row[ours] = rates
        return row

    def _fees(self, provider: str, model: str, rates: Mapping[str, str]) -> dict[str, int]:
        unknown = rates.keys() - UNITS_PER_RATE.keys()
        assert not unknown, f"not fees: {sorted(unknown)}"
        return {name: self._picodollars(provider, model, name, Decimal(rate)) for name, rate in rates.items()}

    def _picodollars(self, provider: str, model: str, key: str, dollars: Decimal) -> int:
        """Dollars per million tokens to picodollars per token; dollars per any other unit to picodollars per it."""
        exact = dollars * (_PICODOLLARS_PER_TOKEN if key.endswith("_mtok") else _PICODOLLARS)
        whole = int(exact.to_integral_value(ROUND_HALF_UP))
        if whole != exact:
            self.rounded.append(Rounded(provider, model, key, dollars, whole))
        return whole


def _rates(prices: package.ModelPrice) -> list[tuple[str, Decimal | package.TieredPrices]]:
    return [(key, value) for key, value in vars(prices).items() if value is not None]


def _all_prices(model: package.ModelInfo) -> Iterator[package.ModelPrice]:
    if isinstance(model.prices, package.ModelPrice):
        yield model.prices
    else:
        yield from (row.prices for row in model.prices)
    yield from (variant.prices for variant in model.price_variants or ())


def _unchargeable(prices: package.ModelPrice) -> Iterator[str]:
    """Keys that are new to us, and fees with tiers: rather no price than one without them."""
    for key, value in _rates(prices):
        tiered_fee = isinstance(value, package.TieredPrices) and KEYS.get(key) in UNITS_PER_RATE
        if key not in UNCHARGED and (key not in KEYS or tiered_fee):
            yield key


def _when(constraint: package.StartDateConstraint | package.TimeOfDateConstraint | None) -> int | list[int] | None:
    """Null always; the first millisecond of a UTC date; or a pair of milliseconds of a UTC day."""
    if constraint is None:
        return None
    if isinstance(constraint, package.StartDateConstraint):
        return int(datetime.combine(constraint.start_date, time(), UTC).timestamp()) * 1_000
    return [_time_ms(constraint.start_time), _time_ms(constraint.end_time)]


def _time_ms(moment: time) -> int:
    zoned = datetime.combine(date(1970, 1, 2), moment, moment.tzinfo or UTC).astimezone(UTC)
    return (zoned.hour * 3_600 + zoned.minute * 60 + zoned.second) * 1_000 + zoned.microsecond // 1_000


def _split(clause: Any) -> tuple[list[str], list[Any] | None]:
    """The exact names that satisfy a match clause, and the rest of it."""
    if isinstance(clause, package.ClauseEquals):
        return [clause.equals.lower()], None
    if not isinstance(clause, package.ClauseOr):
        return [], _clause(clause)
    names: list[str] = []
    patterns: list[list[Any]] = []
    for part in clause.or_:
        part_names, pattern = _split(part)
        names += part_names
        if pattern is not None:
            patterns.append(pattern)
    names = list(dict.fromkeys(names))
    if not patterns:
        return names, None
    return names, patterns[0] if len(patterns) == 1 else ["or", patterns]


def _clause(clause: Any) -> list[Any]:
    """A match clause as `[kind, operand]`. Only a regular expression keeps its case."""
    if isinstance(clause, package.ClauseOr):
        return ["or", [_clause(part) for part in clause.or_]]
    if isinstance(clause, package.ClauseAnd):
        return ["and", [_clause(part) for part in clause.and_]]
    for kind in _CLAUSES:
        operand: str | None = getattr(clause, kind, None)
        if operand is not None:
            return [kind, operand if kind == "regex" else operand.lower()]
    raise ValueError(f"unknown match clause: {clause!r}")
