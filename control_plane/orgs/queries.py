"""Reads of organisations and of the roles in them."""

from uuid import UUID

from sqlalchemy import select

from control_plane.kernel.db import Session
from control_plane.orgs.models import Membership, Organization, ServiceAccount


async def policy_version(session: Session, org_id: UUID) -> int:
    version = await session.scalar(select(Organization.policy_version).where(Organization.id == org_id))
    assert version is not None, "an authenticated caller has an organisation"
    return version


async def timezone(session: Session, org_id: UUID) -> str:
    zone = await session.scalar(select(Organization.timezone).where(Organization.id == org_id))
    assert zone is not None, "an authenticated caller has an organisation"
    return zone


async def organisation_ids(session: Session) -> list[UUID]:
    rows = await session.scalars(
        select(Organization.id).where(Organization.deleted_at.is_(None)).order_by(Organization.id)
    )
    return list(rows)


async def policy_versions(session: Session) -> dict[UUID, int]:
    rows = await session.execute(
        select(Organization.id, Organization.policy_version).where(Organization.deleted_at.is_(None))
    )
    return {row.id: row.policy_version for row in rows}


async def role_of_user(session: Session, org_id: UUID, user_id: UUID) -> str | None:
    return await session.scalar(
        select(Membership.role).where(Membership.org_id == org_id, Membership.user_id == user_id)
    )


async def role_of_service_account(session: Session, org_id: UUID, account_id: UUID) -> str | None:
    """None for a disabled one."""
    return await session.scalar(
        select(ServiceAccount.role).where(
            ServiceAccount.org_id == org_id, ServiceAccount.id == account_id, ServiceAccount.disabled_at.is_(None)
        )
    )
