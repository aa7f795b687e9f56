"""Authentication as a dependency of routes. Revocation is seen at once, because every request asks the database."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Request

from control_plane.kernel import errors
from control_plane.kernel.caller import Caller, Credential, power, secret_of
from control_plane.kernel.context import Context, context_of

CredentialOf = Callable[[bytes], Awaitable[Credential | None]]
"""SHA-256 of a secret to the stored key."""


async def authenticate(headers: Mapping[str, str], credential_of: CredentialOf, now: datetime) -> Caller:
    """Raises 401 for every key that is not good, whatever the reason."""
    secret = secret_of(headers)
    credential = None if secret is None else await credential_of(hashlib.sha256(secret.encode()).digest())
    if credential is None or credential.revoked_at is not None or credential.role is None:
        raise errors.unauthenticated()
    if credential.expires_at is not None and credential.expires_at <= now:
        raise errors.unauthenticated()
    return Caller(
        key_id=credential.key_id,
        org_id=credential.org_id,
        owner_type=credential.owner_type,
        owner_id=credential.owner_id,
        role=credential.role,
        scopes=power(credential.scopes, credential.role),
    )


def _requiring(scope: str) -> Callable[..., Awaitable[Caller]]:
    async def caller(request: Request, context: Annotated[Context, Depends(context_of)]) -> Caller:
        found = await authenticate(request.headers, context.credential_of, datetime.now(UTC))
        if scope not in found.scopes:
            raise errors.forbidden(f"This needs a key with the scope {scope}.", required_scope=scope)
        return found

    return caller


Reader = Annotated[Caller, Depends(_requiring("read"))]
Admin = Annotated[Caller, Depends(_requiring("admin"))]


def documented(scope: str, *codes: str) -> dict[str, Any]:
    """What the API reference says about access and refusals of a route."""
    role = "admin" if scope == "admin" else "viewer"
    common = ["authentication_required", "forbidden", "validation_error", "service_unavailable"]
    return {
        "security": [{"key": []}, {"bearer": []}],
        "x-required-scope": scope,
        "x-min-role": role,
        "x-error-codes": sorted({*common, *codes}),
    }
