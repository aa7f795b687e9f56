"""What was asked: one provider call with its labels, as intake read it and every later step uses it."""

from dataclasses import dataclass, field

from data_plane.http_message import Headers
from data_plane.providers.dialect import Dialect, Facts
from data_plane.router import Route


@dataclass(slots=True)
class Labels:
    """Who and what the call is for. Only labels: power comes from the grant."""

    customer_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    session_id: str | None = None
    trace_id: str = ""
    action_id: str | None = None
    idempotency_key: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Call:
    """One metered call. `body` is the caller's bytes, `sent_body` what leaves (the same object when unmodified)."""

    id: str
    route: Route
    dialect: Dialect
    facts: Facts
    labels: Labels
    upstream_host: str
    target: bytes
    headers: Headers
    """To the provider: the caller's, less what is ours, hop-by-hop or private."""
    sent_body: bytes
    modified: str | None
    started_ns: int
