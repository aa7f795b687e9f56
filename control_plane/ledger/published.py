"""Compares what an organisation has published with its rows, for the reconciler and the audit; changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from control_plane.budgets.models import BudgetRow
from control_plane.budgets.rules import Entity
from control_plane.kernel.publication import PublishedGrant
from control_plane.kernel.redis import RedisServer
from control_plane.ledger.publish import Publication
from shared import redis_keys
from shared.budgets import Budget, decode_budgets, entity_key
from shared.grants import decode_grant

Kind = Literal["limit", "grant", "definition", "policy_version"]


@dataclass(frozen=True, slots=True)
class Difference:
    """`expected` is PostgreSQL's, `actual` Redis's. `newer`: Redis is ahead of what was read here."""

    kind: Kind
    subject: str
    subject_id: UUID | None
    expected: str
    actual: str
    published_version: int = 0
    newer: bool = False


async def differences(redis: RedisServer, publication: Publication) -> list[Difference]:
    """Everything that is not published as it should be."""
    org_id = str(publication.org_id)
    prefix = redis_keys.tag(org_id)
    entities = list(publication.entities)
    replies = await redis.pipeline(
        [
            ["GET", redis_keys.policy_version(prefix, org_id)],
            *(["HMGET", redis_keys.grant(g.secret_sha256), "v", "body"] for g in publication.grants),
            *(
                ["HMGET", redis_keys.limit(prefix, str(b.id)), "version", "limit", "deleted"]
                for b in publication.limits
            ),
            *(["HMGET", redis_keys.policy(prefix, org_id, entity_key(e.type, e.id)), "v", "body"] for e in entities),
        ]
    )
    answers = iter(replies)
    found = [_policy_version(publication, next(answers))]
    found += [_grant(grant, next(answers)) for grant in publication.grants]
    found += [_limit(row, next(answers)) for row in publication.limits]
    found += [_definition(publication, entity, next(answers)) for entity in entities]
    return [difference for difference in found if difference is not None]


def _policy_version(publication: Publication, current: bytes | None) -> Difference | None:
    actual = _number(current)
    if actual == publication.policy_version:
        return None
    return Difference(
        "policy_version",
        str(publication.org_id),
        None,
        str(publication.policy_version),
        str(actual),
        newer=actual > publication.policy_version,
    )


def _grant(published: PublishedGrant, row: Sequence[bytes | None]) -> Difference | None:
    grant, version = published.grant, _number(row[0])
    if version == grant.version and _decoded(decode_grant, row[1]) == grant:
        return None
    expected = f"version {grant.version}{' revoked' if grant.revoked else ''}"
    return Difference(
        "grant",
        grant.key_id,
        UUID(grant.key_id),
        expected,
        f"version {version}",
        version,
        newer=version > grant.version,
    )


def _limit(row: BudgetRow, stored: Sequence[bytes | None]) -> Difference | None:
    deleted = row.archived_at is not None
    limit = "deleted" if deleted else str(row.limit_microdollars)
    version = _number(stored[0])
    actual = "deleted" if stored[2] == b"1" else _text(stored[1])
    if version == row.version and actual == limit:
        return None
    return Difference(
        "limit",
        str(row.id),
        row.id,
        f"version {row.version}: {limit}",
        f"version {version}: {actual}",
        version,
        newer=version > row.version,
    )


def _definition(publication: Publication, entity: Entity, stored: Sequence[bytes | None]) -> Difference | None:
    budgets = tuple(publication.entities[entity])
    actual = _decoded(decode_budgets, stored[1])
    if actual == budgets:
        return None
    subject = next(
        (row.id for row in publication.limits if (row.entity_type, row.entity_id) == (entity.type, entity.id)), None
    )
    version = _number(stored[0])
    return Difference(
        "definition",
        entity_key(entity.type, entity.id),
        subject,
        _versions(budgets),
        _versions(actual) if actual is not None else "unreadable",
        newer=version > publication.policy_version,
    )


def _versions(budgets: Sequence[Budget]) -> str:
    return ", ".join(f"{budget.id} version {budget.version}" for budget in budgets) or "no budgets"


def _decoded(decode: Callable[[bytes], Any], body: bytes | None) -> Any:
    """None for what is missing or not readable."""
    if body is None:
        return None
    try:
        return decode(body)
    except (ValueError, KeyError, TypeError):
        return None


def _number(text: bytes | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


def _text(value: bytes | None) -> str:
    return "missing" if value is None else value.decode(errors="replace")
