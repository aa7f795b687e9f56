"""A key as the data plane sees it: its grant."""

from collections.abc import Sequence
from uuid import UUID

from control_plane.kernel import times
from control_plane.kernel.db import Session
from control_plane.kernel.publication import PublishedGrant
from control_plane.keys import queries
from control_plane.keys.models import ApiKey
from shared.grants import Grant


async def grants_of(session: Session, org_id: UUID, key_ids: Sequence[UUID] | None) -> list[PublishedGrant]:
    """See `kernel.publication.GrantsOf`."""
    keys = await queries.by_id(session, org_id, key_ids)
    return [PublishedGrant(key.key_hash.hex(), _grant(key)) for key in keys]


def _grant(key: ApiKey) -> Grant:
    owner_id = key.owner_user_id or key.service_account_id
    return Grant(
        key_id=str(key.id),
        org_id=str(key.org_id),
        version=key.version,
        scopes=tuple(key.scopes),
        owner_type="user" if key.owner_user_id else "service_account",
        owner_id=str(owner_id),
        expires_at_ms=None if key.expires_at is None else times.to_ms(key.expires_at),
        customer_id=key.customer_id,
        default_tags=key.default_tags,
        allowed_models=None if key.allowed_models is None else tuple(key.allowed_models),
        allowed_providers=None if key.allowed_providers is None else tuple(key.allowed_providers),
        revoked=key.revoked_at is not None,
    )
