"""Publishing: an organisation's pending changes go to Redis, all of them, in one order, until Redis has them.

A request calls it right after its commit and the worker calls it again, until the outbox is empty. What is sent is
read anew each time, so it does not matter who comes first or how often.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select

from control_plane.budgets import queries as budgets
from control_plane.budgets.models import BudgetRow
from control_plane.budgets.rules import Entity
from control_plane.kernel import outbox
from control_plane.kernel.db import Database, DatabaseUnavailable, Session
from control_plane.kernel.publication import GrantsOf, PublishedGrant
from control_plane.kernel.redis import Lua, RedisRefused, RedisServer, RedisUnavailable
from control_plane.orgs import queries as orgs
from control_plane.orgs import service as orgs_service
from shared import redis_keys
from shared.budgets import Budget, encode_budgets, entity_key
from shared.grants import encode_grant
from shared.ledger import SetLimit
from shared.ledger.redis import Part, encode

_log = logging.getLogger("nullspend.publish")

GRANT = Lua.load("control_plane.ledger", "publish_grant")
POLICY_VERSION = Lua.load("control_plane.ledger", "raise_policy_version")


@dataclass(frozen=True, slots=True)
class Publication:
    """What Redis must hold of an organisation at a policy version."""

    org_id: UUID
    policy_version: int
    grants: Sequence[PublishedGrant]
    limits: Sequence[BudgetRow]
    entities: dict[Entity, list[Budget]]


class Publisher:
    """One per process; any number of processes may publish."""

    def __init__(self, database: Database, redis: RedisServer, grants_of: GrantsOf, *, timeout_s: float) -> None:
        self._database = database
        self._redis = redis
        self._grants_of = grants_of
        self._timeout_s = timeout_s

    async def publish(self, org_id: UUID) -> bool:
        """Sends what is pending. False when Redis or PostgreSQL did not take it in time: it stays pending."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._publish(org_id)
        except (RedisUnavailable, RedisRefused, DatabaseUnavailable, TimeoutError) as error:
            _log.warning("changes of organisation %s are not published yet: %s", org_id, error)
            await self._note_failure(org_id, error)
            return False
        return True

    async def publish_due(self) -> int:
        """Publishes the organisations whose outbox is due, until one fails; how many went out.

        Raises DatabaseUnavailable.
        """
        async with self._database.read_only() as session:
            due = await outbox.organisations_due(session)
        for number, org_id in enumerate(due):
            if not await self.publish(org_id):
                return number
        return len(due)

    async def _publish(self, org_id: UUID) -> None:
        async with self._database.transaction() as session:
            pending = await outbox.pending(session, org_id)
            if not pending:
                return
            if any(row.attempts for row in pending):
                # A worker may have read half of the last try: it must not believe that it knows this version. The new
                # one is committed before it is published, or a crash in between would give its number out twice.
                await orgs_service.bump_policy_version(session, org_id)
        async with self._database.transaction() as session:
            await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"publish:{org_id}", 0))))
            # The version first: everything up to it is then among the pending rows that are read after it.
            version = await orgs.policy_version(session, org_id)
            pending = await outbox.pending(session, org_id)
            publication = await read(
                session,
                org_id,
                version,
                self._grants_of,
                key_ids=list({row.subject_id for row in pending if row.topic == "grant"}),
                budget_ids=list({row.subject_id for row in pending if row.topic == "limit"}),
            )
            await send(self._redis, publication)
            await outbox.mark_done(session, pending)

    async def _note_failure(self, org_id: UUID, error: Exception) -> None:
        try:
            async with self._database.transaction() as session:
                await outbox.mark_failed(session, org_id, f"{type(error).__name__}: {error}")
        except DatabaseUnavailable:
            pass  # the rows are pending all the same


async def read(
    session: Session,
    org_id: UUID,
    version: int,
    grants_of: GrantsOf,
    *,
    key_ids: Sequence[UUID] | None,
    budget_ids: Sequence[UUID] | None,
) -> Publication:
    """The current state of these keys and budgets; of all of them where None is given."""
    grants = await grants_of(session, org_id, key_ids)
    limits = await budgets.by_id(session, org_id, budget_ids)
    entities = {Entity(row.entity_type, row.entity_id) for row in limits}
    definitions = await budgets.live_of_entities(session, org_id, entities)
    return Publication(org_id, version, grants, limits, definitions)


async def send(redis: RedisServer, publication: Publication) -> None:
    """Grants first, then limits and the version at once: a worker that sees the version finds all it promises."""
    await redis.pipeline([_grant_command(grant) for grant in publication.grants])
    commands = [_limit_command(publication, row) for row in publication.limits]
    await redis.atomically([*commands, _version_command(publication)])


def _grant_command(published: PublishedGrant) -> list[Part]:
    key = redis_keys.grant(published.secret_sha256)
    return GRANT.command([key], [published.grant.version, encode_grant(published.grant)])


def _limit_command(publication: Publication, row: BudgetRow) -> list[Part]:
    """With its source: a script that is missing must not fail in the middle of a MULTI."""
    entity = Entity(row.entity_type, row.entity_id)
    verb = SetLimit(
        org_id=str(publication.org_id),
        budget_id=str(row.id),
        version=row.version,
        limit=row.limit_microdollars,
        deleted=row.archived_at is not None,
        policy_version=publication.policy_version,
        entity=entity_key(entity.type, entity.id),
        definition=encode_budgets(publication.entities[entity]),
    )
    return encode(verb).with_source()


def _version_command(publication: Publication) -> list[Part]:
    org_id = str(publication.org_id)
    key = redis_keys.policy_version(redis_keys.tag(org_id), org_id)
    return POLICY_VERSION.command([key], [publication.policy_version, redis_keys.CHANGES_CHANNEL, org_id])
