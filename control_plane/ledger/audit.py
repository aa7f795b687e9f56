"""`nullspend ledger audit`: proves online, read-only and to the microdollar that Redis and PostgreSQL agree.

    PostgreSQL snapshot ─> each shard at one instant, with its stream ─> what each source says about the other

The snapshot comes first: whatever was booked after it is still in the stream, because entries stay there for a minute
after they were acknowledged. So `settled` in Redis must be the snapshot's sum plus what the stream adds to it.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from control_plane.kernel import times
from control_plane.kernel.context import Context
from control_plane.kernel.db import Session
from control_plane.ledger import books, picture, publish
from control_plane.ledger.books import FINDINGS_MAX, Booked
from control_plane.ledger.picture import AuditInconclusive, Names, ShardPicture
from control_plane.ledger.published import Difference, differences
from control_plane.ledger.rebuild import WINDOW_KEPT_MS
from control_plane.ledger.report import AuditReport, Finding
from control_plane.orgs import queries as orgs
from control_plane.spend import queries as spend
from control_plane.spend.queries import WindowSum
from shared import redis_keys
from shared.ledger import StreamEntry
from shared.ledger.audit import findings as shard_findings

__all__ = ["AuditInconclusive", "AuditReport", "Finding", "run_audit"]

_MARGIN_MS: Final = 60_000
_PUBLICATION_LOOKS: Final = 4
_PUBLICATION_PAUSE_S: Final = 0.25


@dataclass(slots=True)
class _Tally:
    findings: list[Finding] = field(default_factory=list)
    windows: int = 0
    reservations: int = 0
    publications: int = 0
    pending: int = 0
    settled: int = 0
    held: int = 0


async def run_audit(context: Context, *, org_id: str | None = None) -> AuditReport:
    """Audits everything, or one organisation and the shard it shares.

    Raises AuditInconclusive when it takes so long that the stream may have been trimmed meanwhile, DatabaseUnavailable
    or RedisUnavailable when a store is away.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    tally = _Tally()
    async with context.database.snapshot() as session:
        everyone = await orgs.organisation_ids(session)  # the first statement: the snapshot is of this moment
        wanted = everyone if org_id is None else [found for found in everyone if str(found) == org_id]
        shards = sorted({redis_keys.shard_of(str(found)) for found in wanted})
        if org_id is None:
            shards = list(range(redis_keys.SHARDS))
        sharing = [found for found in everyone if redis_keys.shard_of(str(found)) in set(shards)]
        pictures, sums = await _look(context, session, shards, sharing)
        if time.monotonic() - clock > context.settings.stream_keep_s * 0.8:
            raise AuditInconclusive("looking at Redis took so long that its stream may have been trimmed; try again")
        for shard in pictures:
            await _compare(session, shard, sums[shard.shard], tally)
        tally.findings += await books.findings(session, wanted)
        totals = await books.totals(session, wanted)
        parked = await spend.parked_count(session)
    if parked:
        tally.findings.append(Finding("parked", "ingest_parked", "0", str(parked), "see the table's column error"))
    tally.findings += await _epochs(context, shards)
    for found in wanted:
        await _publications(context, found, tally)
    return AuditReport(
        findings=tuple(_limited(tally.findings)),
        started_at=times.iso(started),
        duration_ms=int((time.monotonic() - clock) * 1000),
        organizations_checked=len(wanted),
        shards_checked=len(shards),
        windows_checked=tally.windows,
        reservations_checked=tally.reservations,
        events_checked=totals.events,
        rollups_checked=totals.rollups,
        publications_checked=tally.publications,
        pending_entries=tally.pending,
        settled_microdollars=tally.settled,
        held_microdollars=tally.held,
        recorded_microdollars=totals.cost_microdollars,
    )


async def _look(
    context: Context, session: Session, shards: Sequence[int], org_ids: Collection[UUID]
) -> tuple[list[ShardPicture], Mapping[int, dict[str, WindowSum]]]:
    """Every shard at an instant after the snapshot, and the snapshot's windows by shard."""
    now_ms = await context.ledger.now_ms()
    sums: dict[int, dict[str, WindowSum]] = defaultdict(dict)
    for org_id in org_ids:
        shard = redis_keys.shard_of(str(org_id))
        for row in await spend.windows_since(session, [org_id], now_ms - WINDOW_KEPT_MS - _MARGIN_MS):
            sums[shard][row.window_id] = row
    names = await picture.names(context.redis)
    pictures = []
    for shard in shards:
        known = names.get(shard) or Names()
        known.windows |= sums[shard].keys()
        pictures.append(await picture.look(context.redis, shard, known))
    return pictures, sums


async def _compare(session: Session, shard: ShardPicture, sums: dict[str, WindowSum], tally: _Tally) -> None:
    """One shard: holds against leases, and settled money against the books."""
    ledger = shard.ledger
    for found in shard_findings(ledger):
        tally.findings.append(Finding(found.kind, found.subject, str(found.expected), str(found.actual)))
    pending = await _pending(session, shard.entries)
    tally.pending += pending.entries
    for window_id in sorted(shard.windows_asked | pending.moved.keys()):
        row, stored = sums.get(window_id), ledger.windows.get(window_id)
        expected = (row.settled if row is not None else 0) + pending.moved.get(window_id, 0)
        if stored is None and row is not None and 0 < row.end_ms < ledger.now_ms - WINDOW_KEPT_MS + _MARGIN_MS:
            continue  # Redis may forget it any moment now
        actual = 0 if stored is None else stored.settled
        tally.windows += 1
        tally.settled += actual
        tally.held += 0 if stored is None else stored.held
        if actual != expected:
            tally.findings.append(Finding("settled", window_id, str(expected), str(actual), f"shard {shard.shard}"))
    tally.reservations += len(ledger.reservations)


@dataclass(slots=True)
class _Pending:
    entries: int
    moved: dict[str, int]


async def _pending(session: Session, entries: Sequence[StreamEntry]) -> _Pending:
    """What the stream says beyond the snapshot: how each window's sum moves when it is booked."""
    calls = {}
    for entry in entries:
        try:
            calls[entry] = (UUID(entry.org_id), UUID(entry.event_id))
        except ValueError:
            continue  # parked by ingest, and reported there
    before = await books.booked(session, sorted(set(calls.values()))) if calls else {}
    after = dict(before)
    for entry, call in calls.items():
        known = after.get(call)
        if known is None or entry.rank > known.rank:
            after[call] = Booked(entry.rank, entry.cost, entry.windows)
    moved: dict[str, int] = defaultdict(int)
    for call, booked in after.items():
        for window in booked.windows:
            moved[window] += booked.cost
        for window in before[call].windows if call in before else ():
            moved[window] -= before[call].cost
    changed = sum(booked is not before.get(call) for call, booked in after.items())
    return _Pending(changed, dict(moved))


async def _epochs(context: Context, shards: Sequence[int]) -> list[Finding]:
    present = await context.redis.pipeline(
        [["EXISTS", redis_keys.epoch(redis_keys.shard_tag(shard))] for shard in shards]
    )
    return [
        Finding("epoch", f"shard {shard}", "present", "missing", "the shard admits nothing until it is rebuilt")
        for shard, exists in zip(shards, present, strict=True)
        if not exists
    ]


async def _publications(context: Context, org_id: UUID, tally: _Tally) -> None:
    """What differs at every one of a few looks, each with a fresh snapshot: a change on its way is no finding."""
    standing: set[Difference] | None = None
    for look in range(_PUBLICATION_LOOKS):
        if look:
            await asyncio.sleep(_PUBLICATION_PAUSE_S)
        async with context.database.snapshot() as session:
            version = await orgs.policy_version(session, org_id)
            wanted = await publish.read(session, org_id, version, context.grants_of, key_ids=None, budget_ids=None)
        found = set(await differences(context.redis, wanted))
        standing = found if standing is None else standing & found
        if not standing:
            break
    tally.publications += len(wanted.grants) + len(wanted.limits) + len(wanted.entities) + 1
    tally.findings += [
        Finding(difference.kind, difference.subject, difference.expected, difference.actual)
        for difference in sorted(standing or (), key=lambda difference: (difference.kind, difference.subject))
    ]


def _limited(findings: Sequence[Finding]) -> list[Finding]:
    """At most a hundred of a kind."""
    counts: dict[str, int] = defaultdict(int)
    kept = []
    for finding in findings:
        counts[finding.kind] += 1
        if counts[finding.kind] <= FINDINGS_MAX:
            kept.append(finding)
    return kept
