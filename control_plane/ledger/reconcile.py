"""Compares everything published with its rows, and queues what differs: a lost publication repairs itself."""

import logging
from uuid import UUID

from control_plane.budgets import service as budgets
from control_plane.kernel import outbox
from control_plane.kernel.context import Context
from control_plane.kernel.db import Session
from control_plane.ledger import publish
from control_plane.ledger.published import Difference, differences
from control_plane.orgs import queries as orgs
from control_plane.orgs import service as orgs_service

_log = logging.getLogger("nullspend.reconcile")


async def reconcile(context: Context) -> int:
    """How many publications had to be repaired. Raises DatabaseUnavailable or RedisUnavailable."""
    async with context.database.read_only() as session:
        org_ids = await orgs.organisation_ids(session)
    return sum([await reconcile_organisation(context, org_id) for org_id in org_ids])


async def reconcile_organisation(context: Context, org_id: UUID) -> int:
    """See `reconcile`. What the publisher is about to send is left to it."""
    async with context.database.snapshot() as session:
        if await outbox.pending(session, org_id):
            return 0
        version = await orgs.policy_version(session, org_id)
        publication = await publish.read(session, org_id, version, context.grants_of, key_ids=None, budget_ids=None)
    found = [d for d in await differences(context.redis, publication) if not d.newer]
    if not found:
        return 0
    _log.warning("organisation %s: %d publications differ and are sent again", org_id, len(found))
    async with context.database.transaction() as session:
        for difference in found:
            await _queue(session, org_id, difference)
    await context.publish(org_id)
    return len(found)


async def _queue(session: Session, org_id: UUID, difference: Difference) -> None:
    subject = difference.subject_id
    if difference.kind == "grant" and subject is not None:
        await orgs_service.bump_policy_version(session, org_id)
        outbox.enqueue(session, org_id, "grant", subject)
    elif subject is not None:
        await budgets.republish(session, org_id, subject, difference.published_version)
    else:
        await orgs_service.bump_policy_version(session, org_id)
        outbox.enqueue(session, org_id, "version", org_id)
