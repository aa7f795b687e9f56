"""The first organisation of an installation: an owner with an admin key, a service account with a working key.

Called at every start; with the keys of an earlier start it verifies them and gives them back.
"""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from control_plane.kernel.context import Context
from control_plane.kernel.db import Session
from control_plane.keys import queries, service
from control_plane.keys.service import NewKey, Owner
from control_plane.orgs import service as orgs
from shared.ids import is_api_key


class BootstrapError(Exception):
    """The installation's keys and its database do not belong together. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """`admin_key` and `service_key` are secrets."""

    org_id: str
    owner_id: str
    service_account_id: str
    admin_key: str
    service_key: str
    admin_key_id: str
    service_key_id: str


_ADMIN = NewKey(name="owner", scopes=("admin",))
_SERVICE = NewKey(name="default", scopes=("proxy", "ingest", "read"))


async def bootstrap(
    context: Context,
    *,
    admin_key: str | None = None,
    service_key: str | None = None,
    slug: str = "default",
    name: str = "Default organisation",
    owner_email: str = "owner@localhost",
    timezone: str = "UTC",
) -> Credentials:
    """Founds the organisation if need be and sees to it that both keys work. The tables must exist.

    A key that is given and unknown is stored as it is; one that is not given is made. Raises BootstrapError for a key
    that is malformed, revoked, or another organisation's. The keys are published before this returns, if Redis answers.
    """
    async with context.database.transaction() as session:
        founded = await orgs.found(
            session, slug=slug, name=name, owner_email=owner_email, service_account="default", timezone=timezone
        )
        admin = await _key(session, founded.org_id, Owner("user", founded.owner_id), _ADMIN, admin_key)
        worker = await _key(
            session, founded.org_id, Owner("service_account", founded.service_account_id), _SERVICE, service_key
        )
    await context.publish(founded.org_id)
    return Credentials(
        org_id=str(founded.org_id),
        owner_id=str(founded.owner_id),
        service_account_id=str(founded.service_account_id),
        admin_key=admin.secret,
        service_key=worker.secret,
        admin_key_id=str(admin.key_id),
        service_key_id=str(worker.key_id),
    )


@dataclass(frozen=True, slots=True)
class _Key:
    key_id: UUID
    secret: str


async def _key(session: Session, org_id: UUID, owner: Owner, new: NewKey, secret: str | None) -> _Key:
    if secret is not None:
        if not is_api_key(secret):
            raise BootstrapError(f"the stored {new.name} key is malformed: remove it, and a new one is made")
        known = await queries.credential_of(session, hashlib.sha256(secret.encode()).digest())
        if known is not None:
            if known.org_id != org_id or known.revoked_at is not None:
                raise BootstrapError(f"the stored {new.name} key was revoked: remove it, and a new one is made")
            return _Key(known.key_id, secret)
    minted = await service.mint(session, org_id, owner, new, secret=secret)
    return _Key(minted.key.id, minted.secret)
