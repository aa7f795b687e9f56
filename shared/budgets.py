"""Budgets as both planes see them, and which of them a call is held in. Pure.

A budget belongs to one entity; the scopes of a call are the *set* of budgets of all its entities, each held and
charged once. Headers are only labels: organisation and key come from the key itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from shared.ledger import Scope
from shared.windows import Alignment, Period, Window, bounds

EntityType = Literal["org", "api_key", "customer", "tag"]
ENTITY_TYPES: Final[tuple[EntityType, ...]] = ("org", "api_key", "customer", "tag")


@dataclass(frozen=True, slots=True)
class Budget:
    """What the data plane knows of one budget. Its limit lives in the ledger and is read with every hold."""

    id: str
    entity_type: EntityType
    entity_id: str
    window: Window
    version: int

    def scope(self, now_ms: int) -> Scope:
        """The window that `now_ms` falls into, as a scope of the ledger."""
        start_ms, end_ms = bounds(self.window, now_ms)
        return Scope(self.id, "-", start_ms, end_ms)


def entity_key(entity_type: str, entity_id: str) -> str:
    """`customer:acme`, `tag:feature=search`: the name under which an entity's budgets are published."""
    return f"{entity_type}:{entity_id}"


def entities_of(org_id: str, api_key_id: str, customer_id: str | None, tags: Mapping[str, str]) -> list[str]:
    """Every entity a call belongs to, broad to narrow, each once.

    Customer, team and agent are entities of their own: a tag of that name never counts a second time.
    """
    entities = [entity_key("org", org_id), entity_key("api_key", api_key_id)]
    if customer_id is not None:
        entities.append(entity_key("customer", customer_id))
    entities += [entity_key("tag", f"{key}={value}") for key, value in tags.items() if key != "customer"]
    return entities


def encode_budgets(budgets: list[Budget]) -> bytes:
    """The published definition of one entity: all its live budgets."""
    return orjson.dumps({"budgets": budgets})


def decode_budgets(definition: bytes) -> tuple[Budget, ...]:
    """The inverse of `encode_budgets`. Unknown fields of a newer publisher are ignored."""
    return tuple(_budget(row) for row in orjson.loads(definition)["budgets"])


def _budget(row: dict[str, Any]) -> Budget:
    window = row["window"]
    period: Period = window["period"]
    alignment: Alignment = window["alignment"]
    return Budget(
        id=row["id"],
        entity_type=row["entity_type"],
        entity_id=row["entity_id"],
        window=Window(period, alignment, window["timezone"], window["anchor_ms"], window["reset_at_ms"]),
        version=row["version"],
    )
