"""Expected refusals: a code, a status and a sentence the caller can act on. Programmer errors are assertions.

Refusal
├── RequestRefusal   the request itself is wrong (400, 401, 403, 404, 408, 413, 415, 431)
├── Denial           policy says no: nothing was sent, carries `X-NullSpend-Denied: 1`
├── Unavailable      we cannot decide now (503): fails closed, worth retrying
└── GatewayFailure   the provider could not be reached or did not answer (502, 504)
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Recovery:
    """Whether and how the same request can succeed later."""

    retryable: bool
    owner_action_required: bool
    retry_after_seconds: int | None = None


class Refusal(Exception):
    """A refusal on its way to the client; `replies` renders it in the dialect of the route."""

    denied = False

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        recovery: Recovery | None = None,
        extra: dict[str, Any] | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.recovery = recovery
        self.extra = extra or {}
        """Further members of `error`: `resets_at`, `in_flight`, …"""
        self.close = close


class RequestRefusal(Refusal):
    """The request cannot be served as it is."""


class Denial(Refusal):
    """Policy refused the call before anything was sent."""

    denied = True


class Unavailable(Refusal):
    """The decision cannot be made now; nothing was sent."""

    def __init__(self, code: str, message: str, retry_after_seconds: int, **kwargs: Any) -> None:
        super().__init__(
            503,
            code,
            message,
            details={"retry_after_seconds": retry_after_seconds},
            recovery=Recovery(retryable=True, owner_action_required=False, retry_after_seconds=retry_after_seconds),
            **kwargs,
        )


class GatewayFailure(Refusal):
    """The provider could not be reached, or ended the exchange before a reply could be passed on."""


def envelope(refusal: Refusal, *, request_id: str, decision_id: str | None) -> dict[str, Any]:
    """The error body of the data plane: readable by the OpenAI, Anthropic and Gemini clients alike.

    The message ends in `[code decision-id]` because some clients keep nothing else.
    """
    mark = f"[{refusal.code} {decision_id}]" if decision_id else f"[{refusal.code}]"
    error: dict[str, Any] = {
        "type": refusal.code,
        "code": refusal.code,
        "message": f"{refusal.message} {mark}",
        "details": refusal.details,
        "request_id": request_id,
    }
    if decision_id:
        error["decision_id"] = decision_id
    error.update(refusal.extra)
    if refusal.recovery is not None:
        error["recovery"] = {
            "retryable": refusal.recovery.retryable,
            "owner_action_required": refusal.recovery.owner_action_required,
            "retry_after_seconds": refusal.recovery.retry_after_seconds,
        }
    return {"type": "error", "error": error}
