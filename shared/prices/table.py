"""The compiled price table: bytes in, the price of a model at an instant out. Lines are parsed on first use.

The payload is JSON lines: a header, then one line for each provider it names, in that order.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Self

import orjson

from shared.prices.matching import NAME_LENGTH_MAX, Names, dashed_date, similarity, spellings, trigrams
from shared.prices.price import Entry, Price, Row

FORMAT: Final = 1
"""The version of the payload's layout; another one is refused."""
FOUND_MAX: Final = 4_096
"""Names come from requests: when this many are remembered they are forgotten at once."""
ALWAYS: Final = (-(2**63), 2**63)
_DAY_MS: Final = 86_400_000

Interval = tuple[int, int]
"""From the first millisecond to before the second."""


class PriceTable:
    """Prices by provider and model name. Not thread-safe; one to an event loop."""

    __slots__ = ("_aliases", "_found", "_lines", "_nearest", "_prefixes", "_providers", "version")

    def __init__(self, header: Mapping[str, Any], lines: Sequence[bytes]) -> None:
        self.version: str = header["version"]
        """`genai-prices@0.2.3+ov:<sha8>`: the package's version and the digest of the overlay."""
        self._aliases: Mapping[str, str] = header["aliases"]
        self._prefixes: Mapping[str, Sequence[str]] = header["prefixes"]
        self._lines: dict[str, bytes] = dict(zip(header["providers"], lines, strict=True))
        self._providers: dict[str, _Provider] = {}
        self._found: dict[tuple[str, str], tuple[int, int, Price | None]] = {}
        self._nearest: dict[tuple[str, str, int], list[str]] = {}

    @classmethod
    def load(cls, payload: bytes) -> Self:
        """A table from its published bytes; ValueError when they are not one."""
        first, *lines = payload.split(b"\n")
        header = orjson.loads(first)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"not a price table of format {FORMAT}")
        return cls(header, lines)

    def find(self, provider: str, model: str, at_ms: int) -> Price | None:
        """The price of `model` for a request sent at `at_ms`; None when it is unpriced.

        `provider` is one of our ids or one of the price package's.
        """
        found = self._found.get((provider, model))
        if found is not None and found[0] <= at_ms < found[1]:
            return found[2]
        return self._look_up(provider, model, at_ms)

    def nearest(self, provider: str, model: str, n: int = 3) -> list[str]:
        """At most `n` priced models of the provider whose names resemble `model`, best first."""
        key = (provider, model[:NAME_LENGTH_MAX].lower(), n)
        known = self._nearest.get(key)
        if known is None:
            known = self._most_similar(*key)
            if len(self._nearest) >= FOUND_MAX:
                self._nearest.clear()
            self._nearest[key] = known
        return known

    def providers(self) -> list[str]:
        """The price package's provider ids."""
        return sorted({*self._lines, *self._providers})

    def models(self, provider: str) -> list[str]:
        """The canonical ids of the provider's own models that have a price."""
        book = self._provider(provider)
        return [] if book is None else [model["id"] for model in book.models if _has_price(model)]

    def _look_up(self, provider: str, model: str, at_ms: int) -> Price | None:
        if len(model) > NAME_LENGTH_MAX:
            return None
        entry = self._entry(provider, model)
        interval, price = (ALWAYS, None) if entry is None else _price_at(entry, at_ms, self.version)
        if len(self._found) >= FOUND_MAX:
            self._found.clear()
        self._found[provider, model] = (*interval, price)
        return price

    def _entry(self, provider: str, model: str) -> Entry | None:
        book = self._provider(provider)
        if book is None:
            return None
        for name in spellings(model.lower(), self._prefixes.get(provider, ())):
            entry = self._match(book, name)
            if entry is None and (dashed := dashed_date(name)) != name:
                entry = self._match(book, dashed)
            if entry is not None:
                return entry
        return None

    def _match(self, book: "_Provider", name: str) -> Entry | None:
        """The provider's own model, else one of a provider whose models it offers: that one without its contexts."""
        position = book.names.find(name)
        if position is not None:
            return book.entry(position, foreign=False)
        for other in book.fallback:
            lender = self._provider(other)
            if lender is not None and (position := lender.names.find(name)) is not None:
                return lender.entry(position, foreign=True)
        return None

    def _provider(self, provider: str) -> "_Provider | None":
        provider = self._aliases.get(provider, provider)
        book = self._providers.get(provider)
        if book is None:
            line = self._lines.pop(provider, None)
            if line is None:
                return None
            book = self._providers[provider] = _Provider(provider, orjson.loads(line), self.version)
        return book

    def _most_similar(self, provider: str, name: str, n: int) -> list[str]:
        wanted = trigrams(name)
        scored = ((similarity(wanted, model.lower()), model) for model in self.models(provider))
        return [model for score, model in heapq.nlargest(n, scored, key=lambda pair: pair[0]) if score > 0]


class _Provider:
    """One parsed line of the payload."""

    __slots__ = ("_entries", "_fees", "_origins", "fallback", "models", "names")

    def __init__(self, provider: str, document: Mapping[str, Any], version: str) -> None:
        self.models: Sequence[Mapping[str, Any]] = document["models"]
        self.names = Names(self.models)
        self.fallback: Sequence[str] = document.get("fallback", ())
        self._fees: Mapping[str, int] = document.get("fees", {})
        self._origins = {False: f"{version.partition('+')[0]}/{provider}", True: f"overlay/{provider}"}
        self._entries: dict[tuple[int, bool], Entry] = {}

    def entry(self, position: int, *, foreign: bool) -> Entry:
        key = (position, foreign)
        entry = self._entries.get(key)
        if entry is None:
            document = self.models[position]
            if foreign:
                document = {name: value for name, value in document.items() if name not in {"variants", "geo"}}
            origin = self._origins[document.get("overlay", False)]
            entry = self._entries[key] = Entry(document, self._fees, origin)
        return entry


def _has_price(model: Mapping[str, Any]) -> bool:
    return bool(model.get("free")) or any(row for _, row in model["rows"])


def _price_at(entry: Entry, at_ms: int, version: str) -> tuple[Interval, Price | None]:
    """The price in force at `at_ms` and for how long it is: the last row whose condition holds, else the first."""
    number = next((n for n in reversed(range(len(entry.rows))) if _holds(entry.rows[n][0], at_ms)), 0)
    active = tuple(n for n, (_, when, _) in enumerate(entry.variants) if _holds(when, at_ms))
    key = (number, active)
    if key not in entry.prices:
        row: Row = entry.rows[number][1]
        ref = f"{entry.origin}/{entry.id}#{number}+{version.partition('+')[2]}"
        variants = [(entry.variants[n][0], entry.variants[n][2]) for n in active]
        entry.prices[key] = Price(entry, ref, row, variants) if row or entry.free else None
    return _interval(entry, at_ms), entry.prices[key]


def _holds(when: Any, at_ms: int) -> bool:
    """Whether a row's condition holds: null always, an integer from then on, a pair between two times of the day."""
    if when is None:
        return True
    if isinstance(when, int):
        return at_ms >= when
    start, end = when
    time_ms = at_ms % _DAY_MS
    if end < start:
        return bool(time_ms >= start or time_ms < end)
    return bool(start <= time_ms < end)


def _interval(entry: Entry, at_ms: int) -> Interval:
    since, until = ALWAYS
    for change in _changes(entry, at_ms - at_ms % _DAY_MS):
        if change <= at_ms:
            since = max(since, change)
        else:
            until = min(until, change)
    return since, until


def _changes(entry: Entry, day_ms: int) -> Iterator[int]:
    """The instants at which a condition may begin or cease to hold, of the day and of all dates."""
    for when in [when for when, _ in entry.rows] + [when for _, when, _ in entry.variants]:
        if isinstance(when, int):
            yield when
        elif when is not None:
            yield from (day_ms, day_ms + when[0], day_ms + when[1], day_ms + _DAY_MS)
