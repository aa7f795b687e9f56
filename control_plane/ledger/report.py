"""What an audit found. Plain values: `dataclasses.asdict` of a report is JSON."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "held",  # a window holds another sum than its open reservations
    "settled",  # a window's spend in Redis is not PostgreSQL's plus what is still in the stream
    "lease",  # a lease without a live reservation, or with another end
    "orphan",  # a live reservation without a lease: nothing would ever end it
    "window_events",  # a window's sum in PostgreSQL is not that of the events charged to it
    "rollup",  # an hourly sum is not that of its events
    "event",  # a call's key and row do not belong together, or its cost is not its first one plus the revisions
    "limit",
    "grant",
    "definition",
    "policy_version",  # these four: what is published is not what PostgreSQL says
    "epoch",  # a shard admits nothing
    "parked",  # stream entries that could not be booked wait for a person
]


@dataclass(frozen=True, slots=True)
class Finding:
    """`expected` is what the other source says; for `held` and `settled` both are microdollars."""

    kind: Kind
    subject: str
    expected: str
    actual: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """All findings (at most a hundred of a kind), and how much was looked at. No finding: everything agrees."""

    findings: tuple[Finding, ...]
    started_at: str
    duration_ms: int
    organizations_checked: int
    shards_checked: int
    windows_checked: int
    reservations_checked: int
    events_checked: int
    rollups_checked: int
    publications_checked: int
    pending_entries: int
    """Stream entries that PostgreSQL did not have yet; they were added to its sums."""
    settled_microdollars: int
    held_microdollars: int
    recorded_microdollars: int
    """The cost of all recorded events."""

    @property
    def ok(self) -> bool:
        return not self.findings
