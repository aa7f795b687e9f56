"""Everything this server says itself: refusals in the caller's dialect, and the headers of every reply."""

import re
from typing import Final

import orjson

from data_plane.decide.denials import entity_id
from data_plane.http_message import Headers, Responder
from data_plane.providers.dialect import Dialect
from shared.budgets import Budget
from shared.errors import Refusal, envelope
from shared.ids import DECISION
from shared.ledger import ScopeState

VERSION: Final = b"2026-04-01"
_JSON: Final = (b"content-type", b"application/json")
_VERSION_HEADER: Final = (b"NullSpend-Version", VERSION)
_NOT_PRINTABLE: Final = re.compile(r"[^ -~]")
_NO_STORE: Final = (b"cache-control", b"no-store")


def identity_headers(call_id: str, trace_id: str) -> Headers:
    """On every reply, refusals and gateway errors included."""
    headers = [(b"X-NullSpend-Request-Id", call_id.encode()), _VERSION_HEADER]
    if trace_id:
        headers.append((b"X-NullSpend-Trace-Id", trace_id.encode()))
    return headers


def render_refusal(refusal: Refusal, call_id: str, dialect: Dialect | None, *, status: int | None = None) -> bytes:
    decision_id = DECISION + call_id if refusal.denied else None
    body = envelope(refusal, request_id=call_id, decision_id=decision_id)
    return orjson.dumps(dialect.denial(body, status or refusal.status) if dialect is not None else body)


def refuse(
    responder: Responder,
    refusal: Refusal,
    *,
    call_id: str,
    trace_id: str,
    dialect: Dialect | None = None,
    status: int | None = None,
    headers: Headers | None = None,
) -> None:
    """Writes a refusal, once. `status` overrides the refusal's own (clients that retry any 429 ask for 402)."""
    out = identity_headers(call_id, trace_id)
    out += [_JSON, _NO_STORE, (b"X-NullSpend-Error", refusal.code.encode())]
    if refusal.denied:
        out.append((b"X-NullSpend-Denied", b"1"))
    if refusal.denied or refusal.status < 500:
        out.append((b"x-should-retry", b"false"))
    recovery = refusal.recovery
    if recovery is not None and recovery.retry_after_seconds is not None:
        out.append((b"Retry-After", str(recovery.retry_after_seconds).encode()))
    if headers:
        out += headers
    responder.send(status or refusal.status, out, render_refusal(refusal, call_id, dialect, status=status))


def budget_headers(budgets: list[Budget], states: tuple[ScopeState, ...]) -> Headers:
    """The budget with the least left, as it stood when the hold was made or refused."""
    budget, state = min(
        zip(budgets, states, strict=True), key=lambda row: (row[1].remaining, row[0].entity_type, row[0].entity_id)
    )
    return [
        (b"X-NullSpend-Budget-Limit", b"%d" % state.limit),
        (b"X-NullSpend-Budget-Spent", b"%d" % (state.settled + state.held)),
        (b"X-NullSpend-Budget-Remaining", b"%d" % max(0, state.remaining)),
        (b"X-NullSpend-Budget-Entity", _NOT_PRINTABLE.sub("?", f"{budget.entity_type}:{entity_id(budget)}").encode()),
    ]


def send_json(responder: Responder, status: int, document: object) -> None:
    """A reply of one of our own endpoints."""
    responder.send(status, [_VERSION_HEADER, _JSON, _NO_STORE], orjson.dumps(document))
