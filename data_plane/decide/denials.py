"""The refusal of a call that its budgets do not carry, with every number it rests on. Pure."""

from datetime import UTC, datetime
from typing import Any, Final

from shared.budgets import Budget
from shared.errors import Denial, Recovery
from shared.ids import BUDGET, KEY, ORG
from shared.ledger import Scope, ScopeState
from shared.money import format_dollars

_CODES: Final = {"customer": "customer_budget_exceeded", "tag": "tag_budget_exceeded"}
_IN_FLIGHT_RETRY_S: Final = 2


class BudgetDenial(Denial):
    """`budgets` and `states` are all that the call was to be held in, as the ledger saw them."""

    budgets: list[Budget]
    states: tuple[ScopeState, ...]


def budget_denial(
    needed: int, budgets: list[Budget], scopes: tuple[Scope, ...], states: tuple[ScopeState, ...]
) -> BudgetDenial:
    """The 429 of a hold that does not fit. The tightest budget (largest shortfall) gives code and details."""
    failing = [
        (budget, scope, state)
        for budget, scope, state in zip(budgets, scopes, states, strict=True)
        if needed > state.remaining
    ]
    assert failing, "a denial names at least one scope"
    failing.sort(key=lambda row: (row[2].remaining - needed, row[0].entity_type, row[0].entity_id))
    budget, scope, state = failing[0]
    in_flight = all(needed <= row[2].limit - row[2].settled for row in failing)
    code = _CODES.get(budget.entity_type, "budget_exceeded")
    details = _details(needed, budget, state)
    details["in_flight"] = in_flight
    details["scopes"] = [_scope(needed, *row) for row in failing]
    extra: dict[str, Any] = {"in_flight": in_flight}
    if scope.window_end_ms:
        extra["resets_at"] = rfc3339(scope.window_end_ms)
    denial = BudgetDenial(
        429,
        code,
        _message(needed, budget, scope, state, in_flight=in_flight),
        details=details,
        recovery=_recovery(needed, scope, state, in_flight=in_flight),
        extra=extra,
    )
    denial.budgets, denial.states = budgets, states
    return denial


def entity_id(budget: Budget) -> str:
    """The id under which the API knows the budget's entity."""
    prefix = {"org": ORG, "api_key": KEY}.get(budget.entity_type, "")
    return prefix + budget.entity_id


def rfc3339(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _details(needed: int, budget: Budget, state: ScopeState) -> dict[str, Any]:
    details: dict[str, Any] = {
        "entity_type": budget.entity_type,
        "entity_id": entity_id(budget),
        "budget_limit_microdollars": state.limit,
        "budget_spend_microdollars": state.settled + state.held,
        "remaining_microdollars": max(0, state.remaining),
        "estimated_cost_microdollars": needed,
        "finalization_reserve_microdollars": 0,
        "finalization_remaining_microdollars": 0,
    }
    if budget.entity_type == "customer":
        details["customer_id"] = budget.entity_id
    elif budget.entity_type == "tag":
        details["tag_key"], _, details["tag_value"] = budget.entity_id.partition("=")
    return details


def _scope(needed: int, budget: Budget, scope: Scope, state: ScopeState) -> dict[str, Any]:
    return {
        "budget_id": BUDGET + budget.id,
        "entity_type": budget.entity_type,
        "entity_id": entity_id(budget),
        "policy": "strict_block",
        "limit_microdollars": state.limit,
        "settled_microdollars": state.settled,
        "held_microdollars": state.held,
        "ceiling_microdollars": state.limit,
        "needed_microdollars": needed,
        "resets_at": rfc3339(scope.window_end_ms) if scope.window_end_ms else None,
        "in_flight": needed <= state.limit - state.settled,
    }


def _message(needed: int, budget: Budget, scope: Scope, state: ScopeState, *, in_flight: bool) -> str:
    what = (
        f"This call may cost {format_dollars(needed)}, and the {budget.entity_type} budget of "
        f"{format_dollars(state.limit)} has {format_dollars(max(0, state.remaining))} left."
    )
    if in_flight:
        return f"{what} Calls in flight hold the rest: try again when they have ended."
    if scope.window_end_ms and needed <= state.limit:
        return f"{what} It resets at {rfc3339(scope.window_end_ms)}; raise it to go on before."
    return f"{what} Raise the budget, or lower the output limit of the call."


def _recovery(needed: int, scope: Scope, state: ScopeState, *, in_flight: bool) -> Recovery:
    if in_flight:
        return Recovery(retryable=True, owner_action_required=False, retry_after_seconds=_IN_FLIGHT_RETRY_S)
    waits = scope.window_end_ms != 0 and needed <= state.limit
    return Recovery(retryable=False, owner_action_required=not waits)
