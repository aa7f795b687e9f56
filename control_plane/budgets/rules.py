"""What a budget may be, and how its row reads in the vocabulary of both planes. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shared.windows import Alignment, Period

PERIOD_OF: Final[Mapping[str, Period]] = {
    "none": "none",
    "hourly": "hour",
    "daily": "day",
    "weekly": "week",
    "monthly": "month",
    "quarterly": "quarter",
    "yearly": "year",
}
INTERVAL_OF: Final[Mapping[str, str]] = {period: interval for interval, period in PERIOD_OF.items()}

NOT_ENFORCED: Final = frozenset(
    {
        "thresholdPercentages",
        "velocityLimitMicrodollars",
        "velocityWindowSeconds",
        "velocityCooldownSeconds",
        "velocityBaselineMultiple",
        "sessionLimitMicrodollars",
        "finalizationReserveMicrodollars",
        "overdraft",
        "partialFit",
        "onLedgerDown",
        "onUnpriced",
        "unpricedRateMicrodollarsPerMTok",
        "limitMode",
        "marginLimit",
        "rollingDays",
        "filter",
        "slot",
        "name",
        "enabled",
        "expiresAt",
        "grants",
        "planRef",
        "templateId",
    }
)
"""Settings of the API's full shape that this version does not enforce yet."""

_CUSTOMER: Final = re.compile(r"[A-Za-z0-9._:-]{1,256}")
_TAG: Final = re.compile(r"([A-Za-z0-9_-]{1,64})=([^\0]{0,256})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entity:
    """Whom a budget limits. `id` is bare for organisations and keys."""

    type: str
    id: str


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """A window definition as it is stored. `anchor_ms` is None where none is needed."""

    period: Period = "none"
    alignment: Alignment = "calendar"
    timezone: str = "UTC"
    anchor_ms: int | None = None


def labelled_entity(entity_type: str, entity_id: str) -> Entity:
    """A customer or a tag. A tag named `customer` is that customer. Raises ValueError with what would be right."""
    if entity_type == "customer":
        if _CUSTOMER.fullmatch(entity_id) is None:
            raise ValueError("a customer id has 1 to 256 letters, digits or . _ : -")
        return Entity("customer", entity_id)
    match = _TAG.fullmatch(entity_id)
    if match is None or entity_id.startswith("_ns_"):
        raise ValueError(
            "a tag is written key=value, the key of 1 to 64 letters, digits, _ or -, the value of up to 256"
        )
    return labelled_entity("customer", match[2]) if match[1] == "customer" else Entity("tag", entity_id)


def changed_definition(old: WindowSpec, new: WindowSpec) -> list[str]:
    """The API's names of the fields in which two definitions differ."""
    pairs = (
        ("resetInterval", old.period, new.period),
        ("windowMode", old.alignment, new.alignment),
        ("timezone", old.timezone, new.timezone),
        ("anchorAt", old.anchor_ms, new.anchor_ms),
    )
    return [name for name, before, after in pairs if before != after]
