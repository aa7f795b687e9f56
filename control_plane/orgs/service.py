"""Founding an organisation, and moving its policy version."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, update

from control_plane.kernel.db import Session
from control_plane.orgs.models import Membership, Organization, ServiceAccount, User
from shared.ids import uuid7


@dataclass(frozen=True, slots=True)
class Founded:
    org_id: UUID
    owner_id: UUID
    service_account_id: UUID


async def bump_policy_version(session: Session, org_id: UUID) -> int:
    """The version of the change being made. Locks the organisation's row: versions commit in their order."""
    version: int | None = await session.scalar(
        update(Organization)
        .where(Organization.id == org_id)
        .values(policy_version=Organization.policy_version + 1)
        .returning(Organization.policy_version)
    )
    assert version is not None, "the organisation of a change exists"
    return version


async def found(
    session: Session, *, slug: str, name: str, owner_email: str, service_account: str, timezone: str = "UTC"
) -> Founded:
    """The organisation, its owner and one service account; what exists already is found, not changed."""
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtext("organizations:found"))))
    owner = await session.scalar(select(User).where(func.lower(User.email) == owner_email.lower()))
    if owner is None:
        owner = User(id=UUID(uuid7()), email=owner_email)
        session.add(owner)
        await session.flush()
    org = await session.scalar(select(Organization).where(Organization.slug == slug))
    if org is None:
        org = Organization(id=UUID(uuid7()), slug=slug, name=name, created_by=owner.id, timezone=timezone)
        session.add(org)
        await session.flush()
        session.add(Membership(org_id=org.id, user_id=owner.id, role="owner"))
    account = await session.scalar(
        select(ServiceAccount).where(ServiceAccount.org_id == org.id, ServiceAccount.name == service_account)
    )
    if account is None:
        account = ServiceAccount(id=UUID(uuid7()), org_id=org.id, name=service_account)
        session.add(account)
    await session.flush()
    owner_id = await session.scalar(
        select(Membership.user_id).where(Membership.org_id == org.id, Membership.role == "owner")
    )
    assert owner_id is not None, "every organisation has an owner"
    return Founded(org.id, owner_id, account.id)
