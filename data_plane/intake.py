"""Headers and bytes to a Call: labels read, private headers dropped, nothing decided.

Every header is hostile until checked. `X-NullSpend-*` headers are only labels and never leave.
"""

import os
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson

from data_plane.call import Labels
from data_plane.http_message import Headers, Request
from shared.errors import RequestRefusal
from shared.grants import Grant
from shared.ids import ACTION, KEY_PREFIX, bare

CUSTOMER: Final = re.compile(r"[A-Za-z0-9._:-]{1,256}")
_TAG_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TRACE: Final = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE: Final = "0" * 32
_TAGS_MAX: Final = 10
_TAGS_BYTES_MAX: Final = 8192

# Hop-by-hop, rewritten, or of no business to a provider.
_DROPPED: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"cookie",
        b"forwarded",
        b"x-real-ip",
        b"via",
        b"nullspend-version",
        b"accept-encoding",
    }
)
_DROPPED_PREFIXES: Final = (b"x-nullspend-", b"proxy-", b"x-forwarded-")
_KEY_PREFIX: Final = KEY_PREFIX.encode()
_CREDENTIALS: Final = (b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key")
# What a Connection header may not remove: the request would reach the provider as something else.
_KEPT: Final = frozenset({*_CREDENTIALS, b"content-type", b"content-encoding"})
_DECODED: Final = frozenset({b"identity", b"gzip", b"deflate"})


def check_headers(request: Request) -> None:
    """Refuses what cannot be read one way only. Raises RequestRefusal 400."""
    for name in request.repeated:
        if name.startswith(b"x-nullspend-"):
            raise RequestRefusal(400, "bad_request", f"The header {name.decode('latin-1')} was sent more than once.")


def leaked_key(request: Request) -> bool:
    """Whether one of our keys was put where the provider's credentials belong: it must never be forwarded."""
    query = request.query
    if query and _KEY_PREFIX in (unquote_to_bytes(query) if b"%" in query else query):
        return True
    return any(_KEY_PREFIX in value for name in _CREDENTIALS for value in all_of(request, name))


def all_of(request: Request, name: bytes) -> Iterable[bytes]:
    """Every value sent under a lower-case name. Nearly always there is at most one."""
    if name in request.repeated:
        return [value for key, value in request.headers if key.lower() == name]
    value = request.lower.get(name)
    return () if value is None else (value,)


def read_labels(request: Request, grant: Grant, trace_id: str) -> Labels:
    """The labels of a call. Malformed labels are dropped with a warning; what is security-relevant is refused."""
    lower, labels = request.lower, Labels(trace_id=trace_id)
    labels.tags = _tags(lower.get(b"x-nullspend-tags"), grant, labels.warnings)
    labels.customer_id = _customer(lower.get(b"x-nullspend-customer"), grant, labels)
    if labels.customer_id is not None:
        labels.tags["customer"] = labels.customer_id
    else:
        labels.tags.pop("customer", None)
    labels.session_id = _text(lower.get(b"x-nullspend-session"), "X-NullSpend-Session", 256)
    labels.idempotency_key = _text(lower.get(b"idempotency-key"), "Idempotency-Key", 256)
    action = lower.get(b"x-nullspend-action-id") or lower.get(b"x-nullspend-actionid")
    if action is not None:
        labels.action_id = bare(action.decode("latin-1"), ACTION)
        if labels.action_id is None:
            labels.warnings.append("invalid_action_id")
    return labels


def upstream_headers(request: Request) -> Headers:
    """The caller's headers less hop-by-hop, private and proxy ones, in their order and spelling."""
    named = {name.strip().lower() for value in all_of(request, b"connection") for name in value.split(b",")} - _KEPT
    headers = [
        (name, value)
        for name, value in request.headers
        if (low := name.lower()) not in _DROPPED and low not in named and not low.startswith(_DROPPED_PREFIXES)
    ]
    headers.append((b"accept-encoding", _codings(request.lower.get(b"accept-encoding", b""))))
    return headers


def _codings(accepted: bytes) -> bytes:
    """The accepted codings reduced to those the meter decodes."""
    kept = [part.strip() for part in accepted.split(b",") if part.split(b";")[0].strip().lower() in _DECODED]
    return b", ".join(kept) or b"identity"


def _customer(header: bytes | None, grant: Grant, labels: Labels) -> str | None:
    customer: str | None = None
    if header is not None:
        candidate = header.decode("latin-1").strip()
        if CUSTOMER.fullmatch(candidate):
            customer = candidate
        else:
            labels.warnings.append("invalid_customer")
    if customer is None:
        tagged = labels.tags.get("customer", "")
        customer = tagged if CUSTOMER.fullmatch(tagged) else None
    if grant.customer_id is not None and customer != grant.customer_id:
        if customer is not None:
            labels.warnings.append("customer_overridden")
        return grant.customer_id
    return customer


def _tags(header: bytes | None, grant: Grant, warnings: list[str]) -> dict[str, str]:
    """The key's default tags under the request's; at most ten, the first ones win."""
    tags = dict(grant.default_tags)
    if header is None:
        return tags
    try:
        document = orjson.loads(header) if len(header) <= _TAGS_BYTES_MAX else None
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        warnings.append("invalid_tags")
        return tags
    valid = {k: v for k, v in document.items() if _valid_tag(k, v)}
    if len(valid) < len(document) or len(valid) > _TAGS_MAX:
        warnings.append("invalid_tags")
    tags.update(list(valid.items())[:_TAGS_MAX])
    return tags


def _valid_tag(key: str, value: object) -> bool:
    return (
        _TAG_KEY.fullmatch(key) is not None
        and not key.startswith("_ns_")
        and isinstance(value, str)
        and len(value) <= 256
        and "\0" not in value
    )


def _text(header: bytes | None, name: str, limit: int) -> str | None:
    if header is None:
        return None
    text = header.decode("latin-1").strip()
    if not text:
        return None
    if len(text) > limit or not text.isprintable() or not text.isascii():
        raise RequestRefusal(400, "bad_request", f"{name} must be at most {limit} printable ASCII characters.")
    return text


def trace_of(request: Request) -> str:
    """The trace a call belongs to: the caller's, or one of its own."""
    lower = request.lower
    parent = _TRACEPARENT.fullmatch(lower.get(b"traceparent", b"").decode("latin-1"))
    if parent is not None and parent.group(1) != _NO_TRACE:
        return parent.group(1)
    header = lower.get(b"x-nullspend-trace-id") or lower.get(b"x-nullspend-traceid")
    if header is not None:
        text = header.decode("latin-1")
        if _TRACE.fullmatch(text) and text != _NO_TRACE:
            return text
    return os.urandom(16).hex()
