"""What a list of cost events can be narrowed by, read from the query string."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Request
from sqlalchemy import ColumnElement

from control_plane.kernel import errors
from control_plane.kernel.fields import Instant
from control_plane.spend.models import CostEventRow
from shared import ids
from shared.ids import KEY

Text = Annotated[str | None, Query(min_length=1, max_length=256)]
Amount = Annotated[int | None, Query(ge=0, le=10**12)]


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Every condition must hold. Times are half-open: `from` included, `to` not."""

    equal: dict[str, Any] = field(default_factory=dict)
    """Column name to value."""
    tags: dict[str, str] = field(default_factory=dict)
    priced: bool | None = None
    cost_min: int | None = None
    cost_max: int | None = None
    start: datetime | None = None
    end: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        event = CostEventRow
        found = [getattr(event, name) == value for name, value in self.equal.items()]
        if self.tags:
            found.append(event.tags.op("@>")(self.tags))
        if self.priced is not None:
            found.append((event.priced == "true") == self.priced)
        if self.cost_min is not None:
            found.append(event.cost_microdollars >= self.cost_min)
        if self.cost_max is not None:
            found.append(event.cost_microdollars <= self.cost_max)
        if self.start is not None:
            found.append(event.occurred_at >= self.start)
        if self.end is not None:
            found.append(event.occurred_at < self.end)
        return found


def event_filter(
    *,
    request: Request,
    request_id: Annotated[Text, Query(alias="requestId")] = None,
    api_key_id: Annotated[Text, Query(alias="apiKeyId")] = None,
    model: Text = None,
    provider: Text = None,
    source: Text = None,
    budget_status: Annotated[Text, Query(alias="budgetStatus")] = None,
    trace_id: Annotated[Text, Query(alias="traceId")] = None,
    session_id: Annotated[Text, Query(alias="sessionId")] = None,
    customer_id: Annotated[Text, Query(alias="customerId")] = None,
    event_type: Annotated[Text, Query(alias="eventType")] = None,
    cost_source: Annotated[Text, Query(alias="costSource")] = None,
    outcome: Text = None,
    priced: Literal["true", "false"] | None = None,
    cost_min: Annotated[Amount, Query(alias="minCost")] = None,
    cost_max: Annotated[Amount, Query(alias="maxCost")] = None,
    start: Annotated[Instant | None, Query(alias="from")] = None,
    end: Annotated[Instant | None, Query(alias="to")] = None,
) -> EventFilter:
    """A dependency. Tags are asked for as `tag.<key>=<value>`. Raises 400."""
    equal: dict[str, Any] = {
        "provider_request_id": request_id,
        "api_key_id": None if api_key_id is None else _key_id(api_key_id),
        "model": model,
        "provider": provider,
        "source": source,
        "budget_status": budget_status,
        "trace_id": trace_id,
        "session_id": session_id,
        "customer_id": customer_id,
        "event_type": event_type,
        "cost_source": cost_source,
        "outcome": outcome,
    }
    tags = {name[4:]: value for name, value in request.query_params.items() if name.startswith("tag.")}
    if any("\0" in text for text in (*tags, *tags.values())):
        raise errors.invalid(["tag"], "holds a character that no tag has (NUL)")
    return EventFilter(
        equal={name: value for name, value in equal.items() if value is not None},
        tags=tags,
        priced=None if priced is None else priced == "true",
        cost_min=cost_min,
        cost_max=cost_max,
        start=start,
        end=end,
    )


def _key_id(text: str) -> UUID:
    found = ids.bare(text, KEY)
    if found is None:
        raise errors.invalid(["apiKeyId"], "must be a key's id, prefixed or bare")
    return UUID(found)
