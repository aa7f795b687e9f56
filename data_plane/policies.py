"""Which budgets an entity has, and at which policy version that was read: cached per organisation.

The ledger compares the version in every hold, so a decision made with an outdated copy never stands.
"""

from dataclasses import dataclass, field
from typing import Final

from shared import redis_keys
from shared.budgets import Budget, decode_budgets
from shared.ledger import Scope
from shared.redis_wire import RedisClient

_ENTITIES_MAX: Final = 50_000


@dataclass(slots=True)
class _Cached:
    """A budget with the scope of its current window, good until `until_ms` (0: for ever)."""

    budget: Budget
    scope: Scope | None = None
    until_ms: int = 0


@dataclass(slots=True)
class _Organisation:
    version: int
    entities: dict[str, tuple[_Cached, ...]] = field(default_factory=dict)


class Policies:
    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._organisations: dict[str, _Organisation] = {}

    async def scopes_of(
        self, org_id: str, entities: list[str], now_ms: int
    ) -> tuple[int, tuple[Scope, ...], list[Budget]]:
        """The policy version and, budget by budget, the scopes a call of these entities is held in.

        Reads what it has not seen. Raises RedisDown or RedisReplyError.
        """
        organisation = self._organisations.get(org_id)
        if organisation is None or not all(entity in organisation.entities for entity in entities):
            organisation = await self._load(org_id, entities)
        scopes: list[Scope] = []
        budgets: list[Budget] = []
        for entity in entities:
            for cached in organisation.entities.get(entity, ()):
                scopes.append(_current(cached, now_ms))
                budgets.append(cached.budget)
        return organisation.version, tuple(scopes), budgets

    def forget(self, org_id: str) -> None:
        self._organisations.pop(org_id, None)

    def versions(self) -> dict[str, int]:
        """The policy version held for each organisation seen."""
        return {org_id: organisation.version for org_id, organisation in self._organisations.items()}

    async def _load(self, org_id: str, entities: list[str]) -> _Organisation:
        known = self._organisations.get(org_id)
        prefix = redis_keys.tag(org_id)
        # The version is read first, on the same connection: what follows is at least as new as it says.
        version = self._redis.execute("GET", redis_keys.policy_version(prefix, org_id))
        wanted = entities if known is None else [entity for entity in entities if entity not in known.entities]
        bodies = [self._redis.execute("HGET", redis_keys.policy(prefix, org_id, entity), "body") for entity in wanted]
        current = int(await version or 0)
        definitions = [await body for body in bodies]
        if known is not None and known.version != current:
            self.forget(org_id)
            return await self._load(org_id, entities)
        organisation = self._organisations.get(org_id)
        if organisation is None or organisation.version != current or len(organisation.entities) > _ENTITIES_MAX:
            organisation = self._organisations[org_id] = _Organisation(current)
        for entity, definition in zip(wanted, definitions, strict=True):
            organisation.entities[entity] = (
                () if definition is None else tuple(map(_Cached, decode_budgets(definition)))
            )
        if any(entity not in organisation.entities for entity in entities):
            return await self._load(org_id, entities)
        return organisation


def _current(cached: _Cached, now_ms: int) -> Scope:
    """The scope of the window `now_ms` falls into. Windows are computed once and kept until they end."""
    scope = cached.scope
    if scope is None or cached.until_ms <= now_ms or now_ms < scope.window_start_ms:
        scope = cached.scope = cached.budget.scope(now_ms)
        reset_ms = cached.budget.window.reset_at_ms
        end_ms = scope.window_end_ms or 1 << 62
        cached.until_ms = min(end_ms, reset_ms) if reset_ms > now_ms else end_ms
    return scope
