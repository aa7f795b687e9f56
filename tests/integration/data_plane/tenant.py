"""An organisation as the control plane publishes it, and what the ledger says of its money."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

from shared import ids, redis_keys
from shared.budgets import Budget, EntityType, encode_budgets, entity_key
from shared.events import CostEvent, decode_event
from shared.grants import Grant, encode_grant
from shared.ledger import Ok, Read, ScopeState, SetLimit, StreamEntry
from shared.ledger.redis import RedisLedger, parse_entry
from shared.redis_wire import RedisClient
from shared.windows import Window

FOREVER: Final = Window()
_PATIENCE_S: Final = 10.0


@dataclass(slots=True)
class Key:
    secret: str
    grant: Grant

    @property
    def id(self) -> str:
        return self.grant.key_id


@dataclass(frozen=True, slots=True)
class Spend:
    """The end of one call: what the ledger booked, and the event it booked it with."""

    entry: StreamEntry
    event: CostEvent

    @property
    def cost(self) -> int:
        return self.entry.cost


@dataclass(slots=True)
class Tenant:
    """Publishes in the control plane's order: the definition first, then the version it belongs to, then the news."""

    redis: RedisClient
    id: str = field(default_factory=ids.uuid7)
    version: int = 0
    announces: bool = True
    """Set to False to lose what would be said on the channel."""
    budgets: dict[str, list[Budget]] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        return redis_keys.tag(self.id)

    @property
    def ledger(self) -> RedisLedger:
        return RedisLedger(lambda parts: self.redis.execute(*parts))

    async def open(self) -> None:
        await self.redis.execute("SET", redis_keys.epoch(self.prefix), "1")

    # --- keys

    async def key(self, **changes: Any) -> Key:
        grant = Grant(ids.uuid7(), self.id, 1, ("proxy",), "user", ids.uuid7())
        key = Key(ids.new_api_key(), replace(grant, **changes))
        await self.publish_key(key)
        return key

    async def change_key(self, key: Key, **changes: Any) -> None:
        key.grant = replace(key.grant, version=key.grant.version + 1, **changes)
        await self.publish_key(key)

    async def publish_key(self, key: Key) -> None:
        name = redis_keys.grant(hashlib.sha256(key.secret.encode()).hexdigest())
        await self.redis.execute("HSET", name, "v", key.grant.version, "body", encode_grant(key.grant))
        await self.bump()

    async def bump(self) -> None:
        self.version += 1
        await self.redis.execute("SET", redis_keys.policy_version(self.prefix, self.id), self.version)
        if self.announces:
            await self.redis.execute("PUBLISH", redis_keys.CHANGES_CHANNEL, self.id)

    # --- budgets

    async def budget(
        self, limit: int, entity_type: EntityType = "org", entity_id: str | None = None, *, window: Window = FOREVER
    ) -> Budget:
        budget = Budget(ids.uuid7(), entity_type, entity_id or self.id, window, 0)
        self.budgets.setdefault(entity_key(entity_type, budget.entity_id), [])
        return await self.set_limit(budget, limit)

    async def set_limit(self, budget: Budget, limit: int) -> Budget:
        """Publishes a budget, or another limit of it. Returns the budget in its new version."""
        return await self._publish(budget, limit, deleted=False)

    async def delete(self, budget: Budget) -> None:
        await self._publish(budget, 0, deleted=True)

    async def _publish(self, budget: Budget, limit: int, *, deleted: bool) -> Budget:
        self.version += 1
        budget = replace(budget, version=budget.version + 1)
        entity = entity_key(budget.entity_type, budget.entity_id)
        others = [other for other in self.budgets[entity] if other.id != budget.id]
        self.budgets[entity] = others if deleted else [*others, budget]
        verb = SetLimit(
            self.id,
            budget.id,
            budget.version,
            limit,
            deleted,
            self.version,
            entity,
            encode_budgets(self.budgets[entity]),
        )
        assert isinstance(await self.ledger.set_limit(verb), Ok)
        return budget

    # --- what happened

    async def state(self, budget: Budget) -> ScopeState:
        """The numbers of the budget's current window."""
        scope = budget.scope(time.time_ns() // 1_000_000)
        return (await self.ledger.read(Read(self.id, (scope,)))).scopes[0]

    async def entries(self) -> list[Spend]:
        rows = await self.redis.execute("XRANGE", redis_keys.stream(self.prefix), "-", "+")
        found = [parse_entry(dict(zip(row[::2], row[1::2], strict=True))) for _, row in rows]
        return [Spend(entry, decode_event(entry.body)) for entry in found if entry.org_id == self.id]

    async def ended(self, count: int = 1) -> list[Spend]:
        """Waits for the ends of `count` calls, and for every hold to be gone. Exactly so many, or it fails."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            entries = await self.entries()
            if len(entries) >= count and not await self.holds():
                assert len(entries) == count, entries
                return entries
            assert time.monotonic() < deadline, f"{len(entries)} of {count} calls have ended: {entries}"
            await asyncio.sleep(0.003)

    async def spent(self) -> Spend:
        """Waits for the end of the one call there was."""
        (spend,) = await self.ended()
        return spend

    async def holds(self) -> list[str]:
        """The calls that hold money now."""
        names = await self.redis.execute("ZRANGE", redis_keys.open_leases(self.prefix), 0, -1)
        owner = {name: await self.redis.execute("HGET", self._reservation(name), "org") for name in names}
        return [name.decode() for name in names if owner[name] == self.id.encode()]

    def _reservation(self, name: bytes) -> str:
        return redis_keys.reservation(self.prefix, name.decode())

    async def quiet(self) -> None:
        """Asserts that nothing was held, charged or recorded."""
        assert await self.entries() == []
        assert await self.holds() == []
