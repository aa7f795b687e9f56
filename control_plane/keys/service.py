"""Minting, changing and revoking keys. Each ends with an outbox row in the same transaction."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func

from control_plane.kernel import errors, outbox
from control_plane.kernel.db import Session
from control_plane.keys import queries, rules
from control_plane.keys.models import ApiKey
from control_plane.orgs import service as orgs
from shared import ids


@dataclass(frozen=True, slots=True)
class Owner:
    type: str
    """`user` or `service_account`."""
    id: UUID


@dataclass(frozen=True, slots=True)
class NewKey:
    name: str
    scopes: Sequence[str] = rules.DEFAULT_SCOPES
    default_tags: dict[str, str] = field(default_factory=dict)
    allowed_models: Sequence[str] | None = None
    allowed_providers: Sequence[str] | None = None
    customer_id: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Minted:
    key: ApiKey
    secret: str


async def mint(session: Session, org_id: UUID, owner: Owner, new: NewKey, *, secret: str | None = None) -> Minted:
    """A new key. Its secret is in the reply and nowhere else; a caller may bring one (a restored installation)."""
    raw = ids.new_api_key() if secret is None else secret
    assert ids.is_api_key(raw)
    await orgs.bump_policy_version(session, org_id)
    key = ApiKey(
        id=UUID(ids.uuid7()),
        org_id=org_id,
        owner_user_id=owner.id if owner.type == "user" else None,
        service_account_id=owner.id if owner.type == "service_account" else None,
        name=new.name,
        key_hash=hashlib.sha256(raw.encode()).digest(),
        key_prefix=raw[: rules.KEY_PREFIX_LENGTH],
        scopes=rules.ordered(new.scopes),
        default_tags=new.default_tags,
        allowed_models=_list(new.allowed_models),
        allowed_providers=_list(new.allowed_providers),
        customer_id=new.customer_id,
        expires_at=new.expires_at,
    )
    session.add(key)
    outbox.enqueue(session, org_id, "grant", key.id)
    await session.flush()
    await session.refresh(key)
    return Minted(key, raw)


async def change(session: Session, org_id: UUID, key_id: UUID, changes: dict[str, Any]) -> ApiKey:
    """Replaces the named columns of a live key. Raises 404."""
    await orgs.bump_policy_version(session, org_id)
    key = await _live(session, org_id, key_id)
    for column, value in changes.items():
        setattr(key, column, value)
    return await _changed(session, key)


async def revoke(session: Session, org_id: UUID, key_id: UUID) -> ApiKey:
    """Ends a key for good. Raises 404, also when it is revoked already."""
    await orgs.bump_policy_version(session, org_id)
    key = await _live(session, org_id, key_id)
    key.revoked_at = func.now()
    return await _changed(session, key)


async def _live(session: Session, org_id: UUID, key_id: UUID) -> ApiKey:
    key = await queries.get(session, org_id, key_id, lock=True)
    if key is None or key.revoked_at is not None:
        raise errors.not_found("key")
    return key


async def _changed(session: Session, key: ApiKey) -> ApiKey:
    key.version += 1
    outbox.enqueue(session, key.org_id, "grant", key.id)
    await session.flush()
    await session.refresh(key)
    return key


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)
