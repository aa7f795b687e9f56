"""The REST API as an owner and an agent use it."""

import json
from types import TracebackType
from typing import Any, Final, Self

import httpx

from tests.support.product import Product
from tests.support.waiting import eventually

Event = dict[str, Any]

RECORDED_S: Final = 2.0
"""A call is on record this long after its end at the latest."""


class Control:
    """`admin` writes, `key` is the agents' own. Use as an async context manager."""

    def __init__(self, product: Product) -> None:
        credentials = product.credentials
        self.key, self.admin_key = credentials["api_key"], credentials["admin_key"]
        self._client = httpx.AsyncClient(base_url=credentials["control_url"], timeout=30, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """What an owner is answered; anything but success fails."""
        reply = await self._client.request(method, path, json=body, headers={"X-NullSpend-Key": self.admin_key})
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text}"
        return reply.json()["data"]

    async def limit(self, kind: str, entity: str, microdollars: int) -> str:
        """Sets the budget of an entity; its id. It is in force on every worker when this returns."""
        body = {"entityType": kind, "entityId": entity, "maxBudgetMicrodollars": microdollars}
        made = await self.call("POST", "/api/budgets", body)
        assert made["enforcement"]["publishedAt"] is not None, made
        return str(made["id"])

    async def budget(self, budget_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", f"/api/budgets/{budget_id}")
        return found

    async def at_rest(self, budget_id: str, *, within_s: float = 10) -> int:
        """What a budget has spent, once nothing is held in it."""
        found = await eventually(
            lambda: self.budget(budget_id), lambda row: row["reservedMicrodollars"] == 0, within_s=within_s
        )
        return int(found["spendMicrodollars"])

    async def events(self, **wanted: str) -> list[Event]:
        """Every recorded call that matches, read with the agents' key, page by page."""
        found: list[Event] = []
        query: dict[str, str] = {"limit": "100", **wanted}
        while True:
            reply = await self._client.get("/api/cost-events", params=query, headers={"X-NullSpend-Key": self.key})
            assert reply.status_code == 200, reply.text
            page = reply.json()
            found += page["data"]
            if not page["hasMore"]:
                return found
            query["cursor"] = json.dumps(page["cursor"])

    async def recorded(self, count: int, **wanted: str) -> list[Event]:
        """The events that match, once there are as many as wanted, in time."""
        return await eventually(lambda: self.events(**wanted), lambda rows: len(rows) >= count, within_s=RECORDED_S)
