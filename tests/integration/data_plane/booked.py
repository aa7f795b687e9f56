"""One call has one end: one entry in the stream, the same amount in the budget, and nothing held."""

from collections.abc import Sequence

from shared.budgets import Budget
from tests.integration.data_plane.harness import Plane
from tests.integration.data_plane.tenant import Spend

WIDE = 10**9
"""A budget that never matters."""


async def assert_booked(
    plane: Plane, budget: Budget, cost: int, ending: str, *, flags: Sequence[str] = (), status: int | None = 200
) -> Spend:
    """Waits for the end of the one call there was and compares everything that says what it cost.

    `ending` is the event's outcome and the source of its cost: `completed exact`.
    """
    spend = await plane.tenant.spent()
    event, entry = spend.event, spend.entry
    assert (entry.cost, f"{event.outcome} {event.cost_source}") == (cost, ending), event
    assert sorted(event.flags) == sorted(flags)
    assert event.http_status == status
    assert (entry.rank, entry.flags, entry.windows) == (2, (), (f"{budget.id}:0:-",))
    assert entry.event_id == event.id
    state = await plane.tenant.state(budget)
    assert (state.settled, state.held) == (cost, 0)
    parts = event.cost_breakdown
    if parts is not None:
        assert parts.input + parts.output + parts.cached + parts.tools == cost
    else:
        assert ending.endswith("bound")
    return spend
