"""Monthly partitions of `cost_events`, made ahead of time. What fits none lands in the default one and is moved."""

from sqlalchemy import text

from control_plane.kernel.db import Session

MONTHS_AHEAD = 3


async def ensure_ahead(session: Session) -> int:
    """Makes the partitions of this month and the next ones; how many were new."""
    made = await session.scalar(text("SELECT ensure_cost_event_partitions(:ahead)"), {"ahead": MONTHS_AHEAD})
    return int(made or 0)
