"""The story of one request, in order; every line is a step with its own file.

No byte goes to the provider before the hold is committed, and every ending after it has a price.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import orjson

from data_plane import replies
from data_plane.auth import Keys, Known
from data_plane.call import Call, Labels
from data_plane.decide import policy
from data_plane.decide.denials import BudgetDenial
from data_plane.decide.outcome import Completed, CutOff, NeverSent, Refused
from data_plane.hold import Hold, Holds, KeyChanged
from data_plane.http_message import Headers, Request, Responder
from data_plane.intake import all_of, check_headers, read_labels, trace_of, upstream_headers
from data_plane.ledger_clock import LedgerClock
from data_plane.pricebook import PriceBook
from data_plane.providers.dialect import Dialect, Facts
from data_plane.providers.registry import DIALECTS
from data_plane.providers.request_body import invalid
from data_plane.relay import Ended, relay
from data_plane.router import Route
from data_plane.settings import Settings
from data_plane.upstream.base import Base
from data_plane.upstream.client import UpstreamPool
from data_plane.upstream.failures import Timeouts, UpstreamFailure
from data_plane.upstream.response import UpstreamResponse
from shared import ids
from shared.errors import GatewayFailure, Recovery, Refusal, RequestRefusal
from shared.grants import Grant
from shared.prices.price import Price

_POLICY_TRIES: Final = 4
"""A policy that moves between reading it and holding under it is read again; more often is no coincidence."""
_STREAM_TIMEOUTS: Final = Timeouts(first_byte_s=300.0)
_WHOLE_TIMEOUTS: Final = Timeouts()


@dataclass(frozen=True, slots=True)
class Plane:
    """What a worker's steps share."""

    keys: Keys
    prices: PriceBook
    holds: Holds
    upstream: UpstreamPool
    bases: dict[str, Base]
    settings: Settings
    clock: LedgerClock


@dataclass(slots=True)
class _Told:
    """What a refusal needs to know of the request, as far as it was read."""

    call_id: str
    trace_id: str
    dialect: Dialect


async def serve(request: Request, responder: Responder, route: Route, plane: Plane) -> Refusal | None:
    """Answers one provider call. Returns the refusal it was answered with, if any."""
    told = _Told(ids.uuid7(), trace_of(request), DIALECTS[route.dialect])
    try:
        check_headers(request)
        known = await plane.keys.authenticate(request)
        body = await request.body(plane.settings.body_bytes_max)
        call = _call(request, route, known.grant, body, told=told, plane=plane)
        hold = await _hold(call, known, request, plane)
        await exchange(call, hold, request, responder, plane)
    except Refusal as refusal:
        if responder.started:
            responder.abort()
        else:
            _refuse(refusal, request, responder, told)
        return refusal
    return None


def _refuse(refusal: Refusal, request: Request, responder: Responder, told: _Told) -> None:
    responder.keep_alive = responder.keep_alive and not refusal.close
    replies.refuse(
        responder,
        refusal,
        call_id=told.call_id,
        trace_id=told.trace_id,
        dialect=told.dialect,
        status=402 if _wants_402(refusal, request) else None,
        headers=replies.budget_headers(refusal.budgets, refusal.states) if isinstance(refusal, BudgetDenial) else None,
    )


async def exchange(call: Call, hold: Hold, request: Request, responder: Responder, plane: Plane) -> None:
    """Sends the call and passes its reply back; the hold ends with what became of it."""
    with plane.holds.kept(hold):
        response = await _send(call, hold, request, plane)
        if response is None:
            return
        hold.http_status = response.status
        ended = await relay(call, response, request, responder, _reply_headers(call, hold, request))
        _conclude(hold, ended)
        if ended.failure is not None and not responder.started:
            raise _gateway_failure(call, ended.failure)


async def _send(call: Call, hold: Hold, request: Request, plane: Plane) -> UpstreamResponse | None:
    """The reply's head; None when the client of a stream left before it came. Raises GatewayFailure."""
    if request.gone:
        hold.outcome = NeverSent()
        return None
    task = asyncio.current_task()
    assert task is not None
    if call.facts.stream:  # a call without a stream is billed whole: it is awaited even when nobody waits for us
        request.on_disconnect(lambda: _cancel(task))

    def leaves() -> None:
        hold.sent_ns = time.perf_counter_ns()

    try:
        return await plane.upstream.send(
            plane.bases[call.route.provider],
            b"POST",
            call.target,
            headers=call.headers,
            body=call.sent_body,
            timeouts=_timeouts(call),
            on_connected=leaves,
        )
    except UpstreamFailure as failure:
        hold.outcome = CutOff() if failure.bytes_written else NeverSent()
        raise _gateway_failure(call, failure) from failure
    except asyncio.CancelledError:
        hold.outcome = CutOff() if hold.sent_ns else NeverSent()
        if not (call.facts.stream and _left(request)):
            raise  # the worker ends, and nobody will know how the call did
        task.uncancel()
        if hold.sent_ns:
            hold.outcome = CutOff(cause="cancelled")
        return None
    finally:
        request.on_disconnect(None)


def _timeouts(call: Call) -> Timeouts:
    return _STREAM_TIMEOUTS if call.facts.stream else _WHOLE_TIMEOUTS


def _left(request: Request) -> bool:
    return request.gone


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


def _conclude(hold: Hold, ended: Ended) -> None:
    """What became of the call, as a value that has a price."""
    hold.first_byte_ns, hold.last_byte_ns = ended.first_byte_ns, ended.last_byte_ns
    reading = ended.reading
    if ended.status >= 300:  # no model ran for a redirect either
        hold.outcome = Refused(reading)
    elif ended.client_gone and not reading.finished and hold.call.facts.stream:
        hold.outcome = CutOff(reading, "cancelled")
    elif ended.failure is not None:
        hold.outcome = CutOff(reading, "interrupted")
    else:
        # Official clients hang up on a stream's last event, not on the end of its framing: nothing was cancelled then.
        hold.outcome = Completed(reading, cancelled=ended.client_gone and not hold.call.facts.stream)


def _call(request: Request, route: Route, grant: Grant, body: bytes, *, told: _Told, plane: Plane) -> Call:
    dialect = told.dialect
    labels = read_labels(request, grant, told.trace_id)
    base = plane.bases[route.provider]
    _check_upstream(request, base)
    _check_coding(request)
    facts = dialect.facts(body, route.model, streaming_path=route.streaming)
    _check_names(facts)
    sent, modified = dialect.prepare(body, facts)
    target = request.target
    if target.startswith(b"/v1/v1/"):
        target = target[3:]
        labels.warnings.append("base_url")
    headers = upstream_headers(request)
    if modified is not None:  # the reply is edited on its way back: it must come as it is
        headers = [(name, value) for name, value in headers if name != b"accept-encoding"]
        headers.append((b"accept-encoding", b"identity"))
    return Call(
        id=told.call_id,
        route=route,
        dialect=dialect,
        facts=facts,
        labels=labels,
        upstream_host=base.host,
        target=target,
        headers=headers,
        sent_body=sent,
        modified=modified,
        started_ns=request.started_ns,
    )


async def _hold(call: Call, known: Known, request: Request, plane: Plane) -> Hold:
    """Decides and holds. A key or policy that changed meanwhile is read again before it decides."""
    for _ in range(_POLICY_TRIES):
        price = _decide(call, known.grant, plane)
        try:
            return await plane.holds.reserve(call, known, price)
        except KeyChanged:
            org_id = known.grant.org_id
            plane.holds.forget(org_id)
            plane.keys.forget(org_id)
            known = await plane.keys.authenticate(request)
            call.labels = _relabelled(request, known.grant, call)
    raise RequestRefusal(
        503,
        "service_unavailable",
        "Policy changed several times while this call was decided; nothing was sent.",
        recovery=Recovery(retryable=True, owner_action_required=False, retry_after_seconds=1),
    )


def _relabelled(request: Request, grant: Grant, call: Call) -> Labels:
    """Labels under the key as it is now."""
    labels = read_labels(request, grant, call.labels.trace_id)
    if call.target != request.target:
        labels.warnings.append("base_url")
    return labels


def _decide(call: Call, grant: Grant, plane: Plane) -> Price | None:
    """The price of a call that may be made. Raises Denial."""
    provider, model = call.route.provider, call.facts.model
    price = plane.prices.find(provider, model, plane.clock.now_ms())
    policy.enforce(grant, provider, model, None if price is None else price.model)
    if price is not None and not price.knows(call.facts.context):
        raise plane.prices.unpriced_context(provider, model, call.facts.context)
    if price is None:
        if plane.settings.unpriced == "deny":
            raise plane.prices.unpriced(provider, model)
        call.labels.warnings.append("unpriced")
    return price


def _check_names(facts: Facts) -> None:
    """They go into events, refusals and prices: half a character (an escape allows it) or a control code is no name."""
    context = facts.context
    named = {"model": facts.model, "service_tier": context.service_tier, "speed": context.speed, "geo": context.geo}
    for field, name in named.items():
        if not name.isprintable():
            raise invalid(field, "must be printable text")


def _check_coding(request: Request) -> None:
    for value in all_of(request, b"content-encoding"):
        if value.strip().lower() not in {b"", b"identity"}:
            raise RequestRefusal(
                415,
                "unsupported_encoding",
                "Send the request body uncompressed: its cost must be bounded before it leaves.",
                details={"encoding": value.decode("latin-1")[:64]},
            )


def _check_upstream(request: Request, base: Base) -> None:
    wanted = request.lower.get(b"x-nullspend-upstream")
    if wanted is None:
        return
    try:
        named = Base.parse(wanted.decode("latin-1"))
    except ValueError:
        named = None
    if named != base:
        raise RequestRefusal(
            400, "invalid_upstream", "X-NullSpend-Upstream must equal the base URL of the route's provider."
        )


def _wants_402(refusal: Refusal, request: Request) -> bool:
    return refusal.denied and refusal.status == 429 and request.lower.get(b"x-nullspend-denial-status") == b"402"


def _gateway_failure(call: Call, failure: UpstreamFailure) -> GatewayFailure:
    provider = call.route.provider
    details: dict[str, Any] = {"provider": provider, "phase": failure.phase}
    status, code, message = 502, "upstream_error", f"{provider} ended the exchange before its reply was complete."
    if not failure.bytes_written:
        code, message = "upstream_unreachable", f"{provider} could not be reached."
    elif failure.timeout:
        status, code, message = 504, "upstream_timeout", f"{provider} did not answer in time."
        timeouts = _timeouts(call)
        waited = {"write": timeouts.write_stall_s, "first_byte": timeouts.first_byte_s}
        details["timeout_seconds"] = waited.get(failure.phase, timeouts.idle_s)
    recovery = Recovery(retryable=True, owner_action_required=False)
    return GatewayFailure(status, code, message, details=details, recovery=recovery)


def _reply_headers(call: Call, hold: Hold, request: Request) -> Headers:
    """Ours, on a provider's reply: who the call was, what it may cost, and what its tightest budget has left."""
    labels = call.labels
    headers = replies.identity_headers(call.id, labels.trace_id)
    headers.append((b"X-NullSpend-Estimate", b"%d" % hold.bound.amount))
    if hold.http_status is not None and hold.http_status < 400 and hold.budgets:
        headers += replies.budget_headers(hold.budgets, hold.states)
    if call.modified is not None:
        headers.append((b"X-NullSpend-Modified", call.modified.encode()))
    if labels.warnings:
        headers.append((b"X-NullSpend-Warning", ", ".join(dict.fromkeys(labels.warnings)).encode()))
    if labels.session_id is not None:
        headers.append((b"X-NullSpend-Session", labels.session_id.encode()))
    if labels.tags:
        headers.append((b"X-NullSpend-Effective-Tags", _ascii_json(labels.tags)))
    now_ns = time.perf_counter_ns()
    total_us, preflight_us = (now_ns - request.started_ns) // 1000, (hold.sent_ns - request.started_ns) // 1000
    waited_us = (now_ns - hold.sent_ns) // 1000
    headers.append((b"x-nullspend-overhead-ms", b"%.3f" % (preflight_us / 1000)))
    timing = b"preflight;dur=%.3f, ttfb;dur=%.3f, total;dur=%.3f"
    headers.append((b"Server-Timing", timing % (preflight_us / 1000, waited_us / 1000, total_us / 1000)))
    return headers


def _ascii_json(tags: dict[str, str]) -> bytes:
    """Header values are ASCII: whatever else is in a tag is escaped as JSON does."""
    text = orjson.dumps(tags)
    return text if text.isascii() else json.dumps(tags, separators=(",", ":")).encode()
