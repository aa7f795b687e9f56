"""The price table in force: loaded from Redis at start and swapped whole when a new version is published."""

import contextlib
import logging

from shared import redis_keys
from shared.errors import Denial, Recovery, Unavailable
from shared.prices.price import Price
from shared.prices.table import PriceTable
from shared.prices.usage import PriceContext
from shared.redis_wire import RedisClient, RedisDown, RedisReplyError

_log = logging.getLogger("nullspend.prices")


class PriceBook:
    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._table: PriceTable | None = None
        self._version = b""

    @property
    def version(self) -> str | None:
        return self._version.decode() or None

    @property
    def table(self) -> PriceTable:
        """The table in force. Raises Unavailable until one was loaded: a call without prices cannot be held."""
        if self._table is None:
            raise Unavailable("service_unavailable", "Prices are not loaded yet; nothing was sent.", 2)
        return self._table

    def find(self, provider: str, model: str, at_ms: int) -> Price | None:
        """The price of a model at an instant; None when it is unpriced."""
        return self.table.find(provider, model, at_ms)

    def unpriced(self, provider: str, model: str) -> Denial:
        """The refusal of a call that cannot be priced, with the nearest models that can."""
        shown, nearest = model[:200], self.table.nearest(provider, model)
        return Denial(
            400,
            "unpriced_model",
            f"There is no price for {provider}/{shown}, so its cost cannot be held. "
            + (f"Did you mean {' or '.join(nearest)}?" if nearest else "Check the model's name."),
            details={"provider": provider, "model": shown, "nearest": nearest},
            recovery=Recovery(retryable=False, owner_action_required=True),
        )

    def unpriced_context(self, provider: str, model: str, context: PriceContext) -> Denial:
        """The refusal of a call that asks for a tier, speed or region its model has no rate for."""
        asked = ", ".join(part for part in (context.service_tier, context.speed, context.geo) if part)
        return Denial(
            400,
            "unpriced_model",
            f"{provider}/{model[:200]} has no price under {asked[:200]}, so its cost cannot be held.",
            details={"provider": provider, "model": model[:200], "context": asked[:200], "nearest": []},
            recovery=Recovery(retryable=False, owner_action_required=True),
        )

    async def refresh(self) -> None:
        """Loads the published version if it is not the one in force. An unreachable Redis changes nothing."""
        with contextlib.suppress(RedisDown, RedisReplyError):
            version = await self._redis.execute("GET", redis_keys.PRICES_CURRENT)
            if version is None or version == self._version:
                return
            payload = await self._redis.execute("GET", redis_keys.prices(version.decode()))
            if payload is not None:
                self._adopt(payload, version)

    def _adopt(self, payload: bytes, version: bytes) -> None:
        """A table that a newer publisher wrote and nobody here can read leaves the one in force."""
        try:
            self._table, self._version = PriceTable.load(payload), version
        except (ValueError, LookupError, TypeError):
            _log.exception("the published price table %r cannot be read", version)
