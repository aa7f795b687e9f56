"""Which model of a provider a name means. The rules are the price package's; ours only try harder where it gives up.

Names are compared in lower case. The first model in the provider's order that matches wins.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, Final

NAME_LENGTH_MAX: Final = 512
"""Longer names are no model's."""

_COMPACT_DATE = re.compile(r"(-)(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_DATE_SUFFIX = re.compile(r"[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6})$")


class Names:
    """Exact names, and patterns with the position of their model. Both give a position in the provider's order."""

    __slots__ = ("exact", "patterns")

    def __init__(self, models: Sequence[Any]) -> None:
        self.exact: dict[str, int] = {}
        self.patterns: list[tuple[int, Any]] = []
        for position, model in enumerate(models):
            for name in model.get("names", (model["id"].lower(),)):
                self.exact.setdefault(name, position)
            if "match" in model:
                self.patterns.append((position, model["match"]))

    def find(self, name: str) -> int | None:
        """The position of the first model that `name`, in lower case, matches."""
        found = self.exact.get(name)
        for position, clause in self.patterns:
            if found is not None and position > found:
                break
            if matches(clause, name):
                return position
        return found


def matches(clause: Sequence[Any], name: str) -> bool:
    """Whether `name`, in lower case, satisfies `[kind, operand]`. A regular expression may match anywhere."""
    kind, operand = clause
    match kind:
        case "equals":
            return bool(name == operand)
        case "starts_with":
            return name.startswith(operand)
        case "ends_with":
            return name.endswith(operand)
        case "contains":
            return operand in name
        case "regex":
            return re.search(operand, name) is not None
        case "or":
            return any(matches(part, name) for part in operand)
        case "and":
            return all(matches(part, name) for part in operand)
        case _:
            raise ValueError(f"unknown match clause: {kind}")


def spellings(name: str, prefixes: Iterable[str]) -> list[str]:
    """The names to try, in order: as given, without a path the provider puts before it, without a trailing date.

    A snapshot too new to be listed is priced like its undated model: refusing it would stop every caller of a model on
    the day its provider updates it, and letting it pass would charge nothing.
    """
    candidates = [name]
    bare = next((name[len(prefix) :] for prefix in prefixes if name.startswith(prefix)), None)
    if bare:
        candidates.append(bare)
    candidates += [
        undated for candidate in tuple(candidates) if (undated := _DATE_SUFFIX.sub("", candidate)) != candidate
    ]
    return candidates


def dashed_date(name: str) -> str:
    """`…-20251211` as `…-2025-12-11`, the form in which most dated names are listed."""
    return _COMPACT_DATE.sub(_dashed, name)


def _dashed(match: re.Match[str]) -> str:
    year, month, day = (int(match.group(index)) for index in (2, 3, 4))
    try:
        date(year, month, day)
    except ValueError:
        return match.group()
    return f"-{year:04d}-{month:02d}-{day:02d}"


def similarity(wanted: frozenset[str], name: str) -> float:
    """Dice's coefficient of trigrams: 1.0 for the same name, 0.0 for nothing in common."""
    grams = trigrams(name)
    return 2 * len(wanted & grams) / (len(wanted) + len(grams))


def trigrams(name: str) -> frozenset[str]:
    """All runs of three characters of the padded name. The front weighs more: families share it."""
    padded = f"  {name} "
    return frozenset(padded[start : start + 3] for start in range(len(padded) - 2))
