"""Pages: newest first by (time, id). A cursor is the last row's pair, with microseconds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from fastapi import Query

from control_plane.kernel import errors, times
from shared import ids

LIMIT_DEFAULT: Final = 50

Limit = Annotated[int, Query(ge=1, le=100, description="Rows of a page.")]
CursorText = Annotated[
    str | None,
    Query(
        alias="cursor",
        max_length=500,
        description="The `cursor` of the page before, as JSON.",
        examples=['{"createdAt":"2026-04-02T10:00:00.123000Z","id":"ns_evt_0192aaaa-0000-7000-8000-000000000001"}'],
    ),
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after one row."""

    created_at: datetime
    id: UUID

    def wire(self, prefix: str) -> dict[str, str]:
        return {"createdAt": times.iso_micros(self.created_at), "id": f"{prefix}{self.id}"}


def parse_cursor(text: str | None, prefix: str) -> Cursor | None:
    """Raises 400 `invalid_cursor`."""
    if text is None:
        return None
    try:
        document = json.loads(text)
        created_at = datetime.fromisoformat(document["createdAt"])
        moment = created_at.astimezone(UTC)
        row_id = ids.bare(document["id"], prefix)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise errors.invalid_cursor() from error
    if row_id is None or created_at.tzinfo is None:
        raise errors.invalid_cursor()
    return Cursor(moment, UUID(row_id))


def page_body(rows: Sequence[T], limit: int | None, render: Any, cursor_of: Any) -> dict[str, Any]:
    """The list envelope. `rows` holds one row more than `limit` when there is another page."""
    more = limit is not None and len(rows) > limit
    shown = rows[:limit]
    return {"data": [render(row) for row in shown], "cursor": cursor_of(shown[-1]) if more else None, "hasMore": more}
