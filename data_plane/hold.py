"""The hold around a call: the worst case is reserved before a byte leaves, and what it cost is booked after the last.

What is taken is given back in the same block, and the worst is assumed until told otherwise: a cancelled call cannot
leak money.
"""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from data_plane.auth import UNREADABLE, Known
from data_plane.call import Call
from data_plane.decide.denials import budget_denial
from data_plane.decide.estimate import Bound, upper_bound
from data_plane.decide.outcome import Charge, CutOff, Outcome, Terms, charge
from data_plane.health import Metrics
from data_plane.journal import Journal
from data_plane.ledger_clock import LedgerClock
from data_plane.policies import Policies
from data_plane.pricebook import PriceBook
from data_plane.settings import Settings
from shared.budgets import Budget, entities_of
from shared.errors import Refusal, RequestRefusal, Unavailable
from shared.events import CostEvent, encode_event
from shared.grants import Grant
from shared.ledger import (
    AMOUNT_MAX,
    Denied,
    Extend,
    NoEpoch,
    NoLimit,
    Ok,
    Release,
    Replay,
    Reserve,
    Scope,
    ScopeState,
    Settle,
    StalePolicy,
)
from shared.ledger.redis import Command, RedisLedger, encode
from shared.prices.price import Price
from shared.prices.usage import Usage
from shared.redis_wire import RedisClient, RedisDown, RedisReplyError

_log = logging.getLogger("nullspend.hold")

_BUCKETS = tuple(Usage.__dataclass_fields__)


class KeyChanged(Exception):
    """The organisation's policy moved since the key was read, and the key with it perhaps: authenticate again."""


@dataclass(slots=True)
class Hold:
    """One live hold. `outcome` is what the exchange says became of the call; cut off until it says otherwise."""

    call: Call
    grant: Grant
    price: Price | None
    bound: Bound
    budgets: list[Budget]
    scopes: tuple[Scope, ...]
    states: tuple[ScopeState, ...]
    event: CostEvent
    at_ms: int
    """The ledger's time when it was made: it dates prices and windows."""
    outcome: Outcome = field(default_factory=CutOff)
    http_status: int | None = None
    response_model: str | None = None
    sent_ns: int = 0
    """When the request left, 0 while it has not. The two below: the first and the last byte of the reply."""
    first_byte_ns: int = 0
    last_byte_ns: int = 0
    renewed_ns: int = field(default_factory=time.perf_counter_ns)


class Holds:
    """Makes holds, keeps their leases alive and books their ends. One per worker."""

    def __init__(
        self,
        *,
        redis: RedisClient,
        ledger: RedisLedger,
        policies: Policies,
        prices: PriceBook,
        journal: Journal,
        clock: LedgerClock,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._redis = redis
        self._ledger = ledger
        self._policies = policies
        self._prices = prices
        self._journal = journal
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._live: dict[str, Hold] = {}

    @property
    def live(self) -> int:
        return len(self._live)

    async def reserve(self, call: Call, known: Known, price: Price | None) -> Hold:
        """Holds the call's upper bound in every budget it belongs to, or raises a Refusal and holds nothing.

        Raises KeyChanged when the key was read at another policy version than the one in force.
        """
        grant = known.grant
        now_ms = self._clock.now_ms()
        bound = self._bound(call, price, now_ms)
        entities = entities_of(grant.org_id, grant.key_id, call.labels.customer_id, call.labels.tags)
        try:
            version, scopes, budgets = await self._policies.scopes_of(grant.org_id, entities, now_ms)
        except (RedisDown, RedisReplyError) as error:
            raise _ledger_unavailable() from error
        except UNREADABLE as error:
            _log.exception("the published budgets of organisation %s cannot be read", grant.org_id)
            raise _ledger_unavailable() from error
        if version != known.version:
            raise KeyChanged
        if price is None and budgets:
            raise self._prices.unpriced(call.route.provider, call.facts.model)
        event = _draft(call, grant, price, bound, now_ms, budgeted=bool(budgets))
        request = Reserve(
            call.id, grant.org_id, version, bound.amount, scopes, self._settings.lease_ms, encode_event(event)
        )
        states = await self._ask(request, budgets, event)
        hold = Hold(call, grant, price, bound, budgets, scopes, states, event, now_ms)
        self._live[call.id] = hold
        self._metrics.held_microdollars += bound.amount
        return hold

    @contextmanager
    def kept(self, hold: Hold) -> Iterator[Hold]:
        """Whatever happens inside, the hold ends with it: settled or released at the price of its outcome."""
        try:
            yield hold
        finally:
            self._end(hold)

    def forget(self, org_id: str) -> None:
        """What is known of an organisation's policy is read anew."""
        self._policies.forget(org_id)

    def renew(self) -> None:
        """Renews the leases that are a third over. Called often: a renewal that failed is made up for by the next."""
        if not self._redis.connected:
            return
        age_ns = self._settings.lease_ms * 1_000_000 // 3
        now_ns = time.perf_counter_ns()
        for hold in self._live.values():
            if now_ns - hold.renewed_ns >= age_ns:
                hold.renewed_ns = now_ns
                verb = Extend(hold.call.id, hold.grant.org_id, 0, hold.scopes, self._settings.lease_ms)
                command = encode(verb)
                reply = self._redis.execute(*command.parts)
                reply.add_done_callback(partial(self._renewed, hold, command))

    def _renewed(self, hold: Hold, command: Command, reply: "asyncio.Future[Any]") -> None:
        error = reply.exception()
        if isinstance(error, RedisReplyError) and error.code == "NOSCRIPT":
            with suppress(RedisDown):
                self._redis.post(*command.with_source())
        elif error is not None:
            hold.renewed_ns = 0

    def _bound(self, call: Call, price: Price | None, now_ms: int) -> Bound:
        found = [self._prices.find(call.route.provider, model, now_ms) for model in call.facts.sub_models]
        bound = upper_bound(call.facts, price, sub_prices=[sub for sub in found if sub is not None])
        if bound.amount > AMOUNT_MAX:
            reason = "This call could cost more than a million dollars; lower its output limit."
            details = {"field": "the output limit", "reason": reason}
            raise RequestRefusal(400, "invalid_parameter", reason, details=details)
        return bound

    async def _ask(self, request: Reserve, budgets: list[Budget], event: CostEvent) -> tuple[ScopeState, ...]:
        if not self._redis.connected:
            raise _ledger_unavailable()  # nothing is sent, so there is nothing to undo
        try:
            reply = await self._ledger.reserve(request)
        except (RedisDown, RedisReplyError) as error:
            # Whether it was taken is not known: the release waits for the connection and undoes it, or bars it.
            event.outcome, event.cost_source, event.flags = "never_sent", "exact", []
            self._journal.submit(Release(request.id, request.org_id, request.scopes, encode_event(event)))
            raise _ledger_unavailable() from error
        match reply:
            case Ok() | Replay():
                self._clock.saw(reply.now_ms)
                return reply.scopes
            case Denied():
                self._clock.saw(reply.now_ms)
                raise budget_denial(request.amount, budgets, request.scopes, reply.scopes)
            case StalePolicy():
                raise KeyChanged
            case NoEpoch() | NoLimit():
                raise _ledger_unavailable()
            case _:
                raise AssertionError(f"a new id cannot be {reply!r}")

    def _end(self, hold: Hold) -> None:
        self._live.pop(hold.call.id, None)
        call, hold_amount = hold.call, hold.bound.amount
        now_ns = time.perf_counter_ns()
        ended_ns = hold.last_byte_ns or now_ns
        terms = Terms(
            call.facts,
            hold.bound,
            hold_amount,
            hold.price,
            self._prices.table,
            call.route.provider,
            hold.at_ms,
            elapsed_ms=(ended_ns - hold.sent_ns) // 1_000_000 if hold.sent_ns else 0,
        )
        due = charge(hold.outcome, terms)
        if due.amount > AMOUNT_MAX:  # no call costs a million dollars: the provider's numbers are wrong
            outcome, due = due.outcome, charge(CutOff(), terms)
            due.outcome, due.flags = outcome, ["estimated", "usage_inconsistent"]
        event = _completed(hold, due, now_ns)
        if due.outcome == "never_sent" or (due.outcome == "refused" and due.amount == 0):
            self._journal.submit(Release(call.id, hold.grant.org_id, hold.scopes, encode_event(event)))
        else:
            self._journal.submit(Settle(call.id, hold.grant.org_id, due.amount, hold.scopes, encode_event(event)))
        self._metrics.ended(call.route.surface, due.outcome, due.amount, event.overhead_us or 0)


def _ledger_unavailable() -> Refusal:
    return Unavailable("budget_unavailable", "Budgets cannot be checked right now, so nothing was sent.", 2)


def _draft(call: Call, grant: Grant, price: Price | None, bound: Bound, at_ms: int, *, budgeted: bool) -> CostEvent:
    """The event as it stands before the call leaves: what is booked should nobody live to say how it ended."""
    labels = call.labels
    return CostEvent(
        id=call.id,
        org_id=grant.org_id,
        api_key_id=grant.key_id,
        requested_at_ms=at_ms,
        provider=call.route.provider,
        model=call.facts.model,
        surface=call.route.surface,
        trust="enforced" if budgeted else "observed",
        customer_id=labels.customer_id,
        session_id=labels.session_id,
        trace_id=labels.trace_id,
        idempotency_key=labels.idempotency_key,
        action_id=labels.action_id,
        tags=labels.tags,
        upstream_host=call.upstream_host,
        streaming=call.facts.stream,
        estimated_cost_microdollars=bound.amount,
        priced="false" if price is None else "true",
        price_ref=None if price is None else price.ref,
        flags=["estimated"],
        budget_status="approved" if budgeted else "skipped",
    )


def _completed(hold: Hold, due: Charge, now_ns: int) -> CostEvent:
    """The event as it is booked: the draft with what became of the call."""
    event, call, usage = hold.event, hold.call, due.usage
    reading = getattr(hold.outcome, "reading", None)
    event.response_model = reading.model if reading is not None else None
    if reading is not None:
        event.provider_request_id = reading.provider_request_id
        event.stop_reason = reading.stop_reason
        event.tool_calls = reading.tool_calls
    event.http_status = hold.http_status
    event.usage = {name: value for name in _BUCKETS if (value := getattr(usage, name))}
    event.input_tokens, event.output_tokens = usage.input_total, usage.output_total
    event.cached_input_tokens, event.reasoning_tokens = usage.cached_total, usage.reasoning
    event.cost_breakdown = due.breakdown
    event.outcome, event.cost_source, event.priced = due.outcome, due.cost_source, due.priced
    event.price_ref = due.price_ref or event.price_ref
    context = due.context
    event.price_context = ",".join(part for part in (context.service_tier, context.speed, context.geo) if part)
    event.flags = due.flags
    event.duration_ms = (now_ns - call.started_ns) // 1_000_000
    if hold.sent_ns:
        last_ns = hold.last_byte_ns or now_ns
        event.upstream_duration_ms = (last_ns - hold.sent_ns) // 1_000_000
        event.overhead_us = (now_ns - call.started_ns - (last_ns - hold.sent_ns)) // 1_000
        if hold.first_byte_ns:
            event.ttfb_ms = (hold.first_byte_ns - call.started_ns) // 1_000_000
    return event
