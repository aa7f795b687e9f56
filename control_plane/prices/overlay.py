"""Our additions to the price package: what it has no place for, or does not know yet. Each line names its source.

Lines are data, in `overlay.json`; this module gives them types.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any, Final, TypeVar

import orjson

_FILE: Final = "overlay.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """Something said about models of one provider of the package (`*` for any), by glob of their canonical ids."""

    provider: str
    models: tuple[str, ...]
    source: str

    def covers(self, provider: str, model: str) -> bool:
        return self.provider in {provider, "*"} and any(fnmatchcase(model, glob) for glob in self.models)


@dataclass(frozen=True, slots=True)
class Number(Line):
    """A ceiling in tokens or a minimum in milliseconds."""

    value: int


@dataclass(frozen=True, slots=True)
class Fees(Line):
    """Dollars per 1,000, as decimal text, by fee. They apply where the package has no rate of its own."""

    rates: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Inherits(Line):
    """Buckets whose published rate is the parent's."""

    buckets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Geo(Line):
    """Where inference runs, and by what fraction all token rates are multiplied there. `*` is any named place."""

    geo: str
    multiplier: tuple[int, int]


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model the package does not have, or has under another one's price. `like` names the model it is a copy of."""

    provider: str
    id: str
    names: tuple[str, ...]
    rates: Mapping[str, str]
    source: str
    like: str | None = None


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Paths that a provider's names may begin with."""

    providers: tuple[str, ...]
    prefixes: tuple[str, ...]
    source: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """All lines. `providers` maps our provider ids to the package's where they differ."""

    providers: Mapping[str, str]
    prefixes: tuple[Prefixes, ...]
    output_tokens_max: tuple[Number, ...]
    free: tuple[Line, ...]
    fees: tuple[Fees, ...]
    inherits: tuple[Inherits, ...]
    geo: tuple[Geo, ...]
    audio_ms_min: tuple[Number, ...]
    explicit_cache: tuple[Line, ...]
    models: tuple[OwnModel, ...]

    def lines(self) -> tuple[Line, ...]:
        """Every line about models of the package."""
        return (
            *self.output_tokens_max,
            *self.free,
            *self.fees,
            *self.inherits,
            *self.geo,
            *self.audio_ms_min,
            *self.explicit_cache,
        )


def load_overlay() -> Overlay:
    """The overlay that ships with this version."""
    document: dict[str, Any] = orjson.loads(files(__package__).joinpath(_FILE).read_bytes())
    return Overlay(
        providers=document["providers"],
        prefixes=_all(Prefixes, document["prefixes"]),
        output_tokens_max=_all(Number, document["output_tokens_max"]),
        free=_all(Line, document["free"]),
        fees=_all(Fees, document["fees"]),
        inherits=_all(Inherits, document["inherits"]),
        geo=_all(Geo, document["geo"]),
        audio_ms_min=_all(Number, document["audio_ms_min"]),
        explicit_cache=_all(Line, document["explicit_cache"]),
        models=_all(OwnModel, document["models"]),
    )


def _all(kind: type[T], lines: list[dict[str, Any]]) -> tuple[T, ...]:
    return tuple(
        kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in line.items()})
        for line in lines
    )
