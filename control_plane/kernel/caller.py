"""A calling key and its power: the scopes it has that its owner's role allows. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from shared.grants import SCOPES
from shared.ids import is_api_key

_ROLE_SCOPES: Final[Mapping[str, frozenset[str]]] = {
    "viewer": frozenset({"read"}),
    "member": frozenset({"proxy", "ingest", "read"}),
    "admin": frozenset(SCOPES),
    "owner": frozenset(SCOPES),
}
_ADMIN_IMPLIES: Final = frozenset({"read", "ingest"})


@dataclass(frozen=True, slots=True)
class Credential:
    """A stored key as authentication needs it. `role` is its owner's, None when the owner is gone or disabled."""

    key_id: UUID
    org_id: UUID
    owner_type: str
    owner_id: UUID
    role: str | None
    scopes: frozenset[str]
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated key. `scopes` is what it may really do."""

    key_id: UUID
    org_id: UUID
    owner_type: str
    owner_id: UUID
    role: str
    scopes: frozenset[str]

    @property
    def grantable(self) -> frozenset[str]:
        """The scopes a key made by this caller may have: its own, and all of them for the owner's admin key."""
        return frozenset(SCOPES) if self.role == "owner" and "admin" in self.scopes else self.scopes


def power(scopes: frozenset[str], role: str) -> frozenset[str]:
    """The scopes in force: those of the key (admin implies read and ingest, not proxy) that the role allows."""
    implied = scopes | _ADMIN_IMPLIES if "admin" in scopes else scopes
    return implied & _ROLE_SCOPES.get(role, frozenset())


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The key a request carries. X-NullSpend-Key decides, also when it is malformed and Authorization is not."""
    own = headers.get("x-nullspend-key")
    if own is not None:
        return own if is_api_key(own) else None
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and is_api_key(token) else None
