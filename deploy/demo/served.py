"""The provider's own account of what it served: the independent truth that spending is reconciled against.

Every reply is entered before its first byte; it counts in the totals once it ended, however it ended.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from deploy.demo.script import NO_TOKENS, TokenUsage

SERVED_MAX: Final = 20_000
"""Entries kept, the oldest go first; the totals know them all."""


@dataclass(slots=True)
class Served:
    id: str
    """The id inside the reply."""
    tag: str | None
    """The request's `x-request-tag`."""
    dialect: str
    model: str
    stream: bool
    service_tier: str | None
    fault: str | None
    usage: TokenUsage = NO_TOKENS
    """Of the whole reply as scripted, told or not; zero for a refusal without usage."""
    status: int = 0
    """0 until the head was sent."""
    usage_sent: bool = False
    completed: bool = False
    """The kernel accepted the last byte. A fault that ends a reply early leaves this false."""
    chunks_sent: int = 0
    """Pieces of text of a stream; shares of the body of a JSON reply that was cut."""
    text_bytes_sent: int = 0
    client_gone: bool = False
    """The client left before the reply was complete."""
    open: bool = True


@dataclass(slots=True)
class Tally:
    replies: int = 0
    usage: TokenUsage = NO_TOKENS

    def add(self, usage: TokenUsage) -> None:
        self.replies += 1
        self.usage += usage


@dataclass(slots=True)
class Totals:
    """Replies with usage: an incomplete one may or may not be charged, a refusal without usage is in neither."""

    completed: Tally = field(default_factory=Tally)
    incomplete: Tally = field(default_factory=Tally)
    client_gone: int = 0

    def add(self, served: Served) -> None:
        self.client_gone += served.client_gone
        if served.usage != NO_TOKENS:
            (self.completed if served.completed else self.incomplete).add(served.usage)


@dataclass(frozen=True, slots=True)
class Stats:
    requests: int
    """Requests of clients; the `/_script` ones do not count."""
    in_flight: int
    bytes_received: int
    by_status: dict[str, int]
    """Replies by the status of their heads; a reset before the head is in none."""
    totals: Totals
    by_model: dict[str, Totals]
    served: list[Served]


@dataclass(slots=True)
class Account:
    requests: int = 0
    bytes_received: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    totals: Totals = field(default_factory=Totals)
    by_model: dict[str, Totals] = field(default_factory=dict)
    served: deque[Served] = field(default_factory=lambda: deque(maxlen=SERVED_MAX))
    in_flight: int = 0

    def enter(self, served: Served) -> None:
        self.in_flight += 1
        self.served.append(served)

    def conclude(self, served: Served) -> None:
        served.open = False
        self.in_flight -= 1
        self.totals.add(served)
        self.by_model.setdefault(served.model, Totals()).add(served)

    def stats(self) -> Stats:
        return Stats(
            requests=self.requests,
            in_flight=self.in_flight,
            bytes_received=self.bytes_received,
            by_status=dict(self.by_status),
            totals=self.totals,
            by_model=dict(self.by_model),
            served=list(self.served),
        )
