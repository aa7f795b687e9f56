"""How a call ended, and what that costs. Pure: one match prices every ending, for every provider.

Nothing was sent or the provider refused: nothing. It reported usage: exactly that. Otherwise what was seen, and where
nothing was, the hold.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Final, Literal, assert_never

from data_plane.decide.estimate import TOKENS_PER_MILLION, Bound
from data_plane.providers.dialect import Facts, Reading
from shared import events
from shared.money import ZERO, Microdollars
from shared.prices.cost import Cost, cost
from shared.prices.price import Price
from shared.prices.table import PriceTable
from shared.prices.usage import Metered, PriceContext, Usage, UsagePart

CutCause = Literal["cancelled", "interrupted", "budget_cut", "unknown"]

BYTES_PER_TOKEN_SHOWN: Final = 3
UNSEEN_TOKENS_PER_S: Final = 500
"""How fast reasoning that is not shown may run."""


@dataclass(slots=True)
class NeverSent:
    """No byte of the request left."""


@dataclass(slots=True)
class Refused:
    """The provider answered with a status that is no success."""

    reading: Reading | None = None


@dataclass(slots=True)
class Completed:
    """The reply came to its end. `cancelled`: the caller had left, and the reply was read without it."""

    reading: Reading
    cancelled: bool = False


@dataclass(slots=True)
class CutOff:
    """The call ended early, or nobody knows how: the default, so that a lost call cannot leak money.

    `reading` is None when the provider had not begun to answer.
    """

    reading: Reading | None = None
    cause: CutCause = "unknown"


Outcome = NeverSent | Refused | Completed | CutOff


@dataclass(frozen=True, slots=True)
class Terms:
    """What a call is priced by. `reserved` is the hold as it was at the end, extensions included."""

    facts: Facts
    bound: Bound
    reserved: Microdollars
    price: Price | None
    """Of the model asked for; None when it is unpriced."""
    table: PriceTable
    provider: str
    at_ms: int
    elapsed_ms: int = 0
    """While reasoning may have run unseen: from sending until the end, or until the first output where it is known."""
    unpriced_rate: int = 0
    """Microdollars per million tokens, for a model without a price."""
    trust_reported_cost: bool = False


@dataclass(slots=True)
class Charge:
    """What a call costs, and how that is known."""

    amount: Microdollars
    outcome: events.Outcome
    cost_source: events.CostSource
    priced: events.Priced = "true"
    breakdown: events.CostBreakdown | None = None
    flags: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    """Summed over the call's parts; where it was counted, as counted."""
    context: PriceContext = field(default_factory=PriceContext)
    price_ref: str | None = None
    reported: Microdollars | None = None
    """What the provider says it bills."""
    computed: Microdollars | None = None
    """Our own figure, where another was charged."""


def charge(outcome: Outcome, terms: Terms) -> Charge:
    """The charge for an ending."""
    match outcome:
        case NeverSent():
            return _nothing("never_sent", terms)
        case Refused(reading):
            if reading is None or reading.metered is None:
                return _nothing("refused", terms)
            return _exact(reading, reading.metered, terms, "refused", [])
        case Completed(reading, cancelled):
            flags = ["cancelled"] if cancelled else []
            if reading.error:
                flags.append("provider_error")
            if reading.final and reading.metered is not None:
                return _exact(reading, reading.metered, terms, "completed", flags)
            if reading.blank:
                return _hold(reading, terms, "completed", [*flags, "unparsable"])
            return _counted(reading, terms, "completed", flags if reading.error else [*flags, "no_usage"])
        case CutOff(reading, cause):
            if reading is None:
                return _hold(Reading(), terms, "cut_off", [cause])
            flags = [cause, "provider_error"] if reading.error else [cause]
            if reading.final and reading.metered is not None:
                return _exact(reading, reading.metered, terms, "cut_off", flags)
            # A stream that was cut before its first event showed nothing yet. Half a JSON body, or what is no event
            # stream, hides an answer that may be billed whole.
            if reading.blank and "unparsable" in reading.flags:
                return _hold(reading, terms, "cut_off", flags)
            return _counted(reading, terms, "cut_off", flags)
        case _:
            assert_never(outcome)


def observed(reading: Reading, terms: Terms) -> Microdollars:
    """The cost of what was seen so far, whatever the hold: what the guard compares with it."""
    exact = reading.metered if reading.final else None
    metered = _with_counted(reading, terms) if exact is None else exact
    return _priced(metered, reading, terms).amount


def _nothing(outcome: events.Outcome, terms: Terms) -> Charge:
    charged = Charge(ZERO, outcome, "exact", breakdown=events.CostBreakdown())
    if terms.price is None:
        charged.priced = "false"
    else:
        charged.price_ref = terms.price.ref
    return charged


def _hold(reading: Reading, terms: Terms, outcome: events.Outcome, flags: list[str]) -> Charge:
    priced: events.Priced = "false" if terms.price is None else "true"
    ref = None if terms.price is None else terms.price.ref
    return Charge(
        terms.reserved,
        outcome,
        "bound",
        priced=priced,
        flags=_unique(["estimated", *flags, *reading.flags]),
        context=terms.facts.context,
        price_ref=ref,
    )


def _exact(reading: Reading, metered: Metered, terms: Terms, outcome: events.Outcome, flags: list[str]) -> Charge:
    charged = _priced(metered, reading, terms)
    charged.outcome = outcome
    charged.flags = _unique([*charged.flags, *flags, *reading.flags])
    if reading.reported_cost_microdollars is not None:
        charged.reported = Microdollars(reading.reported_cost_microdollars)
        if terms.trust_reported_cost:
            charged.computed, charged.amount = charged.amount, charged.reported
            charged.cost_source = "reported"
            charged.breakdown = None
            charged.priced = "true"
    return charged


def _counted(reading: Reading, terms: Terms, outcome: events.Outcome, flags: list[str]) -> Charge:
    charged = _priced(_with_counted(reading, terms), reading, terms)
    charged.outcome = outcome
    charged.cost_source = "counted"
    charged.flags = _unique(["estimated", *flags, *reading.flags])
    # A count is a guess, and no guess is charged beyond the hold. What the provider itself reported is.
    most = terms.reserved
    if reading.metered is not None:
        most = max(most, _priced(reading.metered, reading, terms).amount)
    if charged.amount > most:
        _reduce(charged, charged.amount - most)
    return charged


def _reduce(charged: Charge, excess: int) -> None:
    charged.amount = Microdollars(charged.amount - excess)
    parts = charged.breakdown
    if parts is None:
        return
    for name in ("output", "tools", "input", "cached"):
        cut = min(excess, getattr(parts, name))
        setattr(parts, name, getattr(parts, name) - cut)
        excess -= cut
    parts.reasoning = min(parts.reasoning, parts.output)


def _with_counted(reading: Reading, terms: Terms) -> Metered:
    """What was reported, completed by counts: the input bound where no input is known, the output that was seen."""
    facts, bound = terms.facts, terms.bound
    if reading.metered is None:
        first, others, context = Usage(input=bound.input_tokens), [], facts.context
    else:
        parts = reading.metered.parts
        first, others, context = replace(parts[0].usage), parts[1:], reading.metered.context
    seen = max(reading.output_deltas, -(-reading.output_bytes // BYTES_PER_TOKEN_SHOWN))
    unseen = 0
    if reading.reasoning_hidden:
        unseen = min(bound.output_tokens, UNSEEN_TOKENS_PER_S * terms.elapsed_ms // 1000)
    room = max(0, bound.output_tokens - first.output_total)
    seen = min(seen, room)
    unseen = min(unseen, room - seen)
    if facts.audio_output:
        first.output_audio += seen
        first.output += unseen
    else:
        first.output += seen + unseen
    first.reasoning += unseen
    own_model = None if reading.metered is None else reading.metered.parts[0].model
    return Metered([UsagePart(first, own_model), *others], context)


def _priced(metered: Metered, reading: Reading, terms: Terms) -> Charge:
    """Usage at its price: the replying model's, else the one asked for."""
    price, guessed = terms.price, False
    if reading.model is not None and reading.model != terms.facts.model:
        own = terms.table.find(terms.provider, reading.model, terms.at_ms)
        price, guessed = (price, price is not None) if own is None else (own, False)
    usage = _summed(part.usage for part in metered.parts)
    if price is None:
        return _unpriced(usage, metered.context, terms.unpriced_rate)
    sum_ = cost(metered.parts, price, metered.context, table=terms.table, provider=terms.provider, at_ms=terms.at_ms)
    return Charge(
        sum_.total,
        "completed",
        "exact",
        priced="gap" if sum_.gap or guessed else "true",
        breakdown=_breakdown(sum_),
        usage=usage,
        context=metered.context,
        price_ref=price.ref,
    )


def _unpriced(usage: Usage, context: PriceContext, rate: int) -> Charge:
    """All tokens at one stated rate; nothing where none is stated."""
    inputs = -(-usage.input_total * rate // TOKENS_PER_MILLION)
    outputs = -(-usage.output_total * rate // TOKENS_PER_MILLION)
    return Charge(
        Microdollars(inputs + outputs),
        "completed",
        "bound",
        priced="false",
        breakdown=events.CostBreakdown(input=inputs, output=outputs),
        flags=["estimated"] if rate else [],
        usage=usage,
        context=context,
    )


def _breakdown(sum_: Cost) -> events.CostBreakdown:
    return events.CostBreakdown(
        input=sum_.input, output=sum_.output, cached=sum_.cached, tools=sum_.tools, reasoning=sum_.reasoning
    )


_BUCKETS: Final = tuple(bucket.name for bucket in fields(Usage))


def _summed(usages: Iterable[Usage]) -> Usage:
    first, *others = usages
    if not others:
        return first
    return Usage(**{name: sum(getattr(usage, name) for usage in (first, *others)) for name in _BUCKETS})


def _unique(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))
