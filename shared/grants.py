"""What one API key may do, as the control plane publishes it and every data-plane worker caches it."""

from dataclasses import dataclass, field
from typing import Final, Literal

import orjson

Scope = Literal["proxy", "ingest", "read", "admin"]
SCOPES: Final[tuple[Scope, ...]] = ("proxy", "ingest", "read", "admin")


@dataclass(frozen=True, slots=True)
class Grant:
    """The power and the labels of a key. Ids are bare UUIDs. Lists of None mean unrestricted, empty ones nothing."""

    key_id: str
    org_id: str
    version: int
    scopes: tuple[str, ...]
    owner_type: str
    """`user` or `service_account`."""
    owner_id: str
    expires_at_ms: int | None = None
    customer_id: str | None = None
    """A bound customer: it wins over any header."""
    default_tags: dict[str, str] = field(default_factory=dict)
    allowed_models: tuple[str, ...] | None = None
    allowed_providers: tuple[str, ...] | None = None
    revoked: bool = False


def encode_grant(grant: Grant) -> bytes:
    return orjson.dumps(grant)


def decode_grant(body: bytes) -> Grant:
    """The inverse of `encode_grant`. Unknown fields of a newer publisher are ignored."""
    row = orjson.loads(body)
    return Grant(
        key_id=row["key_id"],
        org_id=row["org_id"],
        version=row["version"],
        scopes=tuple(row["scopes"]),
        owner_type=row["owner_type"],
        owner_id=row["owner_id"],
        expires_at_ms=row["expires_at_ms"],
        customer_id=row["customer_id"],
        default_tags=row["default_tags"],
        allowed_models=_tuple(row["allowed_models"]),
        allowed_providers=_tuple(row["allowed_providers"]),
        revoked=row["revoked"],
    )


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
