"""The refusals of the API, one function each, so that a code has one status and one shape everywhere.

RequestRefusal   400, 401, 403, 404, 409, 413, 415
Unavailable      503: nothing was decided, worth retrying
"""

from collections.abc import Sequence
from typing import Any

from shared.errors import Recovery, Refusal, RequestRefusal, Unavailable

_OWNER = Recovery(retryable=False, owner_action_required=True)


def invalid(path: Sequence[str | int], message: str) -> RequestRefusal:
    """400 for one field: `path` leads to it, `message` says what is wrong and what would be right."""
    return invalid_fields([{"path": list(path), "message": message}])


def invalid_fields(issues: list[dict[str, Any]]) -> RequestRefusal:
    first = issues[0]
    where = ".".join(str(part) for part in first["path"]) or "body"
    return RequestRefusal(400, "validation_error", f"{where}: {first['message']}", details={"issues": issues})


def invalid_json(message: str) -> RequestRefusal:
    return RequestRefusal(400, "invalid_json", message)


def invalid_cursor() -> RequestRefusal:
    return RequestRefusal(
        400, "invalid_cursor", 'cursor must be one this list returned: {"createdAt": …, "id": …} as JSON.'
    )


def not_found(what: str) -> RequestRefusal:
    """A row of another organisation is answered exactly like one that does not exist."""
    return RequestRefusal(404, "not_found", f"There is no such {what}.")


def unauthenticated() -> RequestRefusal:
    """One answer for missing, malformed, unknown, revoked and expired keys: a caller learns nothing about others."""
    message = "Send a valid key in the header X-NullSpend-Key, or as Authorization: Bearer."
    return RequestRefusal(401, "authentication_required", message, recovery=_OWNER)


def forbidden(message: str, **details: str) -> RequestRefusal:
    return RequestRefusal(403, "forbidden", message, details=dict(details), recovery=_OWNER)


def conflict(message: str, code: str = "conflict") -> RequestRefusal:
    return RequestRefusal(409, code, message)


def database_down() -> Refusal:
    return Unavailable("service_unavailable", "The database cannot be reached right now; nothing was changed.", 30)


def ledger_down() -> Refusal:
    return Unavailable("budget_unavailable", "The ledger cannot be reached right now, and numbers are not guessed.", 2)
