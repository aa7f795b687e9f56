"""Reads of keys. Everything but the lookup by secret is bound to one organisation."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Select, select, tuple_

from control_plane.kernel.caller import Credential
from control_plane.kernel.db import Session
from control_plane.kernel.pagination import Cursor
from control_plane.keys.models import ApiKey
from control_plane.orgs import queries as orgs


async def credential_of(session: Session, secret_sha256: bytes) -> Credential | None:
    """The key of a secret with its owner's role, as authentication needs it."""
    key = await session.scalar(select(ApiKey).where(ApiKey.key_hash == secret_sha256))
    if key is None:
        return None
    if key.owner_user_id is not None:
        owner_type, owner_id = "user", key.owner_user_id
        role = await orgs.role_of_user(session, key.org_id, owner_id)
    else:
        assert key.service_account_id is not None, "the table's check: exactly one owner"
        owner_type, owner_id = "service_account", key.service_account_id
        role = await orgs.role_of_service_account(session, key.org_id, owner_id)
    return Credential(
        key_id=key.id,
        org_id=key.org_id,
        owner_type=owner_type,
        owner_id=owner_id,
        role=role,
        scopes=frozenset(key.scopes),
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )


def _live(org_id: UUID) -> Select[ApiKey]:
    return select(ApiKey).where(ApiKey.org_id == org_id, ApiKey.revoked_at.is_(None))


async def page(session: Session, org_id: UUID, *, limit: int, after: Cursor | None) -> Sequence[ApiKey]:
    """Live keys, newest first; one more than `limit` when there is another page."""
    query = _live(org_id)
    if after is not None:
        query = query.where(tuple_(ApiKey.created_at, ApiKey.id) < (after.created_at, after.id))
    rows = await session.scalars(query.order_by(ApiKey.created_at.desc(), ApiKey.id.desc()).limit(limit + 1))
    return rows.all()


async def get(session: Session, org_id: UUID, key_id: UUID, *, lock: bool = False) -> ApiKey | None:
    """A key of any state."""
    query = select(ApiKey).where(ApiKey.org_id == org_id, ApiKey.id == key_id)
    return await session.scalar(query.with_for_update(key_share=True) if lock else query)


async def exists(session: Session, org_id: UUID, key_id: UUID) -> bool:
    return await session.scalar(_live(org_id).where(ApiKey.id == key_id).with_only_columns(ApiKey.id)) is not None


async def names(session: Session, org_id: UUID) -> dict[UUID, str]:
    rows = await session.execute(select(ApiKey.id, ApiKey.name).where(ApiKey.org_id == org_id))
    return {row.id: row.name for row in rows}


async def by_id(session: Session, org_id: UUID, key_ids: Sequence[UUID] | None) -> Sequence[ApiKey]:
    """Keys of any state; all of the organisation when no ids are given."""
    query = select(ApiKey).where(ApiKey.org_id == org_id)
    if key_ids is not None:
        query = query.where(ApiKey.id.in_(key_ids))
    return (await session.scalars(query.order_by(ApiKey.id))).all()
