"""HTTP conventions: envelopes, errors, request ids, headers every response carries, and the limits of a body.

It knows no slice. Validation is 400 with `details.issues`, never a framework's 422.
"""

import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from control_plane.kernel import errors
from control_plane.kernel.db import DatabaseUnavailable, RowRefused
from control_plane.kernel.redis import RedisUnavailable
from shared.errors import Refusal, RequestRefusal

_log = logging.getLogger("nullspend.http")

API_VERSION: Final = "2026-04-01"
DOCS: Final = "/docs"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})
_ISSUES_MAX: Final = 20
_CRASH: Final = RequestRefusal(
    500, "internal_error", "Something broke on our side; the log has it under this request id."
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")


def error_body(refusal: Refusal, request_id: str) -> dict[str, Any]:
    recovery = refusal.recovery
    return {
        "error": {
            "code": refusal.code,
            "message": refusal.message,
            "details": refusal.details,
            "request_id": request_id,
            "recovery": {
                "retryable": recovery.retryable if recovery else False,
                "owner_action_required": recovery.owner_action_required if recovery else False,
                "retry_after_seconds": recovery.retry_after_seconds if recovery else None,
                "docs": f"{DOCS}#{refusal.code}",
            },
            **refusal.extra,
        }
    }


def error_response(refusal: Refusal, request_id: str) -> Response:
    headers = {}
    if refusal.recovery is not None and refusal.recovery.retry_after_seconds is not None:
        headers["Retry-After"] = str(refusal.recovery.retry_after_seconds)
    return json_response(error_body(refusal, request_id), refusal.status, headers)


def install_error_answers(app: FastAPI) -> None:
    """Whatever a route raises becomes one error envelope."""

    def answer(kind: type[Exception], refusal_of: Callable[[Any], Refusal]) -> None:
        async def respond(request: Request, error: Exception) -> Response:
            return error_response(refusal_of(error), request.scope["request_id"])

        app.add_exception_handler(kind, respond)

    answer(Refusal, lambda refusal: refusal)
    answer(RequestValidationError, _validation_refusal)
    answer(HTTPException, _routing_refusal)
    answer(DatabaseUnavailable, lambda _: errors.database_down())
    answer(RowRefused, _row_refusal)
    answer(RedisUnavailable, lambda _: errors.ledger_down())
    answer(Exception, lambda _: _CRASH)


def _validation_refusal(error: RequestValidationError) -> Refusal:
    issues = error.errors()
    if issues[0]["type"] == "json_invalid":
        return errors.invalid_json("The body is not valid JSON.")
    return errors.invalid_fields([_issue(issue) for issue in issues[:_ISSUES_MAX]])


def _issue(issue: dict[str, Any]) -> dict[str, Any]:
    where, *path = (_printable(part) for part in issue["loc"])
    message = issue["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if issue["type"] == "extra_forbidden":
        message = "is not a field of this request; unknown fields are refused, so that nothing is silently ignored"
    return {"path": path if where in {"body", "query", "path", "header"} else [where, *path], "message": message}


def _printable(part: Any) -> Any:
    """Field names come from the caller, and half a surrogate pair cannot be sent back."""
    return part.encode("utf-8", "replace").decode() if isinstance(part, str) else part


def _row_refusal(error: RowRefused) -> Refusal:
    if error.constraint:
        return errors.conflict("This collides with what is there already: read it, then try again.")
    return errors.invalid([], "holds a character that cannot be stored (NUL)")


def _routing_refusal(error: HTTPException) -> Refusal:
    if error.status_code == 404:
        return RequestRefusal(404, "not_found", "There is no such route.")
    if error.status_code == 405:
        return RequestRefusal(405, "method_not_allowed", "This route does not have that method.")
    return RequestRefusal(error.status_code, "invalid_input", str(error.detail))


class Conventions:
    """ASGI middleware: a request id, a bounded JSON body, and the headers of every response.

    It is the outermost layer, so that also a crash is answered in the envelope and carries the id.
    """

    def __init__(self, app: App, *, body_bytes_max: int) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Exchange(dict(scope["headers"]), send)
        scope["request_id"] = request.id
        try:
            body = await self._read_body(scope, request.headers, receive)
        except Refusal as refusal:
            await error_response(refusal, request.id)(scope, receive, request.send)
            return
        try:
            await self._app(scope, _replaying(body, receive), request.send)
        except Exception:  # noqa: BLE001 - whatever it is, the client gets an envelope and the log the traceback
            _log.exception("request %s failed: %s %s", request.id, scope["method"], scope["path"])
            if not request.started:
                crash = RequestRefusal(
                    500, "internal_error", "Something broke on our side; it was logged under this request id."
                )
                await error_response(crash, request.id)(scope, receive, request.send)

    async def _read_body(self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], receive: Receive) -> bytes:
        if scope["method"] not in _BODY_METHODS:
            return b""
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._body_bytes_max:
            raise self._too_large()
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                break
            chunk = message.get("body", b"")
            parts.append(chunk)
            size += len(chunk)
            if size > self._body_bytes_max:
                raise self._too_large()
            more = message.get("more_body", False)
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if size and kind != b"application/json":
            raise RequestRefusal(415, "unsupported_media_type", "Send the body as Content-Type: application/json.")
        return b"".join(parts)

    def _too_large(self) -> RequestRefusal:
        limit = self._body_bytes_max
        return RequestRefusal(413, "payload_too_large", f"The body may have at most {limit} bytes.", close=True)


class _Exchange:
    """One request's id, and a `send` that adds the common headers."""

    def __init__(self, headers: dict[bytes, bytes], send: Send) -> None:
        self.headers = headers
        self.started = False
        self._send = send
        wanted = headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = wanted if _REQUEST_ID.fullmatch(wanted) else str(uuid.uuid4())
        asked = headers.get(b"nullspend-version", API_VERSION.encode()).decode("latin-1")
        self._unsupported = asked != API_VERSION

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            present = {name.lower() for name, _ in message["headers"]}
            headers = [*message["headers"], (b"x-request-id", self.id.encode())]
            headers.append((b"nullspend-version", API_VERSION.encode()))
            if b"cache-control" not in present:
                headers.append((b"cache-control", b"private, no-store"))
            headers += [(b"vary", b"Cookie, X-NullSpend-Key"), (b"x-content-type-options", b"nosniff")]
            if self._unsupported:
                headers.append((b"x-nullspend-warning", b"unsupported_version"))
            message = {**message, "headers": headers}
        await self._send(message)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """The body once more for the application, then whatever the client does next (a disconnect)."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
