"""What became of every call, put together from four sides: its caller, the provider, its event, and the budget.

A call costs what the provider served, or there is one stated reason why not.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tests.support.control import Event
from tests.support.prices import RATES
from tests.support.traffic import Told
from tests.support.upstreams import Served

Reason = Literal[
    "exact",  # served, and charged what it cost
    "refused",  # the product said no (503): nothing was sent, nothing is charged
    "never_arrived",  # the connection broke before anything was held
    "lapsed",  # its worker died: the hold is charged, flagged
    "never_sent",  # held, not sent, given back
]


@dataclass(frozen=True, slots=True)
class Settled:
    """One call and the reason for its charge."""

    told: Told
    reason: Reason
    charge: int


def settle(told: Sequence[Told], served: Sequence[Served], events: Sequence[Event]) -> list[Settled]:
    """Explains every call. Fails for a charge without a reason, a doubled call, and an event of no call."""
    by_tag: defaultdict[str, list[Served]] = defaultdict(list)
    by_session: defaultdict[str, list[Event]] = defaultdict(list)
    for reply in served:
        by_tag[reply.tag or ""].append(reply)
    for event in events:
        by_session[event["sessionId"]].append(event)
    names = {call.name for call in told}
    assert len(names) == len(told)
    assert by_tag.keys() <= names
    assert by_session.keys() <= names
    return [_explain(call, by_tag[call.name], by_session[call.name]) for call in told]


def _explain(told: Told, served: Sequence[Served], events: Sequence[Event]) -> Settled:
    everything = (told, served, events)
    assert len(served) <= 1, f"sent twice: {everything}"
    assert len(events) <= 1, f"recorded twice: {everything}"
    reply = served[0] if served else None
    if not events:
        assert reply is None, f"served and not recorded: {everything}"
        assert told.code is not None or told.error is not None, f"answered by nobody: {everything}"
        return Settled(told, "refused" if told.code else "never_arrived", 0)
    event = events[0]
    reason, due = _reason(told, reply, event)
    assert event["costMicrodollars"] == due, f"{reason}, due {due}: {everything}"
    return Settled(told, reason, due)


def _reason(told: Told, reply: Served | None, event: Event) -> tuple[Reason, int]:
    """Why an event may cost what it does, and how much that is."""
    if event["costSource"] == "exact" and event["outcome"] == "completed":
        assert reply is not None, f"charged and not served: {event}"
        assert reply.completed, f"charged as if it had been served to its end: {event}"
        return "exact", RATES[reply.model].cost(reply.usage)
    if "lapsed" in event["flags"]:  # perhaps answered whole: a worker can die between the last byte and the booking
        return "lapsed", event["estimatedCostMicrodollars"]
    assert not told.complete, f"answered whole and not charged exactly: {told} {event}"
    assert reply is None, f"served and not charged: {told} {reply} {event}"
    assert told.code is not None, f"nobody was told why: {told} {event}"
    return "never_sent", 0


def reasons(settled: Sequence[Settled]) -> Counter[str]:
    return Counter(call.reason for call in settled)
