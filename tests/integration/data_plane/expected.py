"""What every refusal must look like, in whichever shape the caller's client expects."""

import re
from collections.abc import Mapping
from typing import Any, Final

from tests.integration.data_plane.caller import Reply
from tests.integration.data_plane.harness import Plane
from tests.integration.data_plane.surfaces import Surface

VERSION: Final = "2026-04-01"
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_TRACE: Final = re.compile(r"[0-9a-f]{32}")
_GOOGLE_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def assert_refused(
    reply: Reply, status: int, code: str, *, surface: Surface | None = None, denied: bool = False
) -> dict[str, Any]:
    """Checks everything that all refusals share. Returns `error`."""
    assert (reply.status, reply.header("X-NullSpend-Error"), reply.complete) == (status, code, True), reply
    document = reply.json()
    error: dict[str, Any] = document["error"]
    assert (document["type"], error["type"]) == ("error", code)
    assert "details" in error
    _check_identity(reply, error, denied=denied)
    _check_headers(reply, denied=denied)
    if surface is not None and surface.name == "gemini":
        assert (error["code"], error["status"]) == (status, _GOOGLE_STATUS[status])
    else:
        assert error["code"] == code
        assert "status" not in error
    return error


def _check_identity(reply: Reply, error: Mapping[str, Any], *, denied: bool) -> None:
    call_id = error["request_id"]
    assert _UUID.fullmatch(call_id)
    assert reply.header("X-NullSpend-Request-Id") == call_id
    assert _TRACE.fullmatch(reply.header("X-NullSpend-Trace-Id") or "")
    decision = f"ns_dec_{call_id}"
    if denied:
        assert error["decision_id"] == decision
        assert error["message"].endswith(f" [{error['type']} {decision}]")
    else:
        assert "decision_id" not in error
        assert error["message"].endswith(f" [{error['type']}]")


def _check_headers(reply: Reply, *, denied: bool) -> None:
    assert reply.header("NullSpend-Version") == VERSION
    assert reply.header("Content-Type") == "application/json"
    assert reply.header("X-NullSpend-Denied") == ("1" if denied else None)
    assert reply.header("x-should-retry") == ("false" if denied or reply.status < 500 else None)
    assert "x-nullspend-estimate" not in reply.names()


async def assert_nothing_left(plane: Plane) -> None:
    """The provider did not even see a connection, and the ledger did not move."""
    assert (plane.upstream.bytes_received, plane.upstream.connections) == (0, 0)
    await plane.tenant.quiet()
