"""The audit finds every kind of corruption, and nothing else, also under traffic."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import asdict, replace

import pytest
import pytest_asyncio
from sqlalchemy import text

from control_plane.ledger.audit import AuditInconclusive, AuditReport, run_audit
from shared import redis_keys
from shared.ledger import Expire, Ok, Scope
from shared.ledger.redis import Part
from tests.integration.control_plane.support import Installation, scope_of


@pytest_asyncio.fixture(loop_scope="session")
async def busy(alone: Installation) -> Installation:
    """Spent, held, lapsed and released money; most of it recorded, the last of it still in the stream."""
    scope = scope_of(await alone.budget(100_000))
    for amount in (5, 6, 7):
        await alone.spend(amount, [scope])
    lapsed = alone.event()
    await alone.reserve(lapsed, 100, [scope])
    await alone.context.ledger.expire(Expire(lapsed.id, alone.org_id, (scope,), force=True))
    await alone.ingest.drain()
    await alone.settle(lapsed, 60, [scope])
    await alone.spend(9, [scope])
    await alone.reserve(alone.event(), 500, [scope])
    return alone


async def window(org: Installation) -> tuple[str, Scope]:
    budget = (await org.admin.get("/api/budgets")).json()["data"][0]
    scope = scope_of(budget)
    return redis_keys.window(redis_keys.tag(org.org_id), scope.window_id), scope


async def kinds(org: Installation) -> set[str]:
    return {finding.kind for finding in (await run_audit(org.context)).findings}


async def change(org: Installation, statement: str) -> None:
    async with org.context.database.transaction() as session:
        await session.execute(text(statement), {"org": org.org_id})


async def test_a_whole_ledger_has_no_findings_and_the_report_says_what_was_looked_at(busy: Installation) -> None:
    report = await run_audit(busy.context)
    assert report.findings == ()
    assert report.ok
    assert (report.organizations_checked, report.shards_checked, report.windows_checked) == (1, 64, 1)
    assert (report.events_checked, report.rollups_checked, report.reservations_checked) == (4, 1, 1)
    assert report.pending_entries == 2
    assert (report.settled_microdollars, report.held_microdollars, report.recorded_microdollars) == (87, 500, 118)
    assert report.publications_checked == 2 + 1 + 1 + 1
    assert json.loads(json.dumps(asdict(report)))["findings"] == []
    await busy.ingest.drain()
    after = await run_audit(busy.context)
    assert (after.findings, after.pending_entries, after.recorded_microdollars) == ((), 0, 87)
    one = await run_audit(busy.context, org_id=busy.org_id)
    assert (one.findings, one.shards_checked, one.windows_checked) == ((), 1, 1)


async def test_an_audit_changes_nothing(busy: Installation) -> None:
    async def everything() -> dict[bytes, bytes]:
        names = await busy.context.redis.execute(["KEYS", "*"])
        return {name: await busy.context.redis.execute(["DUMP", name]) for name in sorted(names)}

    before = await everything()
    await run_audit(busy.context)
    assert await everything() == before


async def test_a_hold_nobody_made_is_found(busy: Installation) -> None:
    name, scope = await window(busy)
    await busy.context.redis.execute(["HINCRBY", name, "held", 1])
    (finding,) = (await run_audit(busy.context)).findings
    assert (finding.kind, finding.subject, finding.expected, finding.actual) == ("held", scope.window_id, "500", "501")


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_microdollar_that_redis_has_or_lacks_is_found(busy: Installation, recorded: bool) -> None:
    if recorded:
        await busy.ingest.drain()
    name, scope = await window(busy)
    for step, actual in ((1, "88"), (-2, "86")):
        await busy.context.redis.execute(["HINCRBY", name, "settled", step])
        (finding,) = (await run_audit(busy.context)).findings
        assert (finding.kind, finding.subject) == ("settled", scope.window_id)
        assert (finding.expected, finding.actual) == ("87", actual)


async def test_a_window_that_is_gone_or_that_nobody_made_is_found(busy: Installation) -> None:
    name, scope = await window(busy)
    await busy.context.redis.execute(["DEL", name])
    assert await kinds(busy) == {"settled", "held"}
    await busy.context.redis.execute(["HSET", name, "settled", 87, "held", 500])
    assert await kinds(busy) == set()
    stray = redis_keys.window(redis_keys.tag(busy.org_id), f"{scope.budget_id}:5:-")
    await busy.context.redis.execute(["HSET", stray, "settled", 1, "held", 0])
    assert await kinds(busy) == {"settled"}


async def test_a_lost_stream_entry_is_found(busy: Installation) -> None:
    stream = redis_keys.stream(redis_keys.tag(busy.org_id))
    newest = (await busy.context.redis.execute(["XREVRANGE", stream, "+", "-", "COUNT", 1]))[0][0]
    await busy.context.redis.execute(["XDEL", stream, newest])
    (finding,) = (await run_audit(busy.context)).findings
    assert (finding.kind, finding.expected, finding.actual) == ("settled", "78", "87")


async def test_a_lease_without_its_reservation_and_one_with_another_end_are_found(busy: Installation) -> None:
    leases = redis_keys.open_leases(redis_keys.tag(busy.org_id))
    (name,) = await busy.context.redis.execute(["ZRANGE", leases, 0, -1])
    await busy.context.redis.execute(["ZINCRBY", leases, 5, name])
    assert await kinds(busy) == {"lease"}
    await busy.context.redis.execute(["ZINCRBY", leases, -5, name])
    await busy.context.redis.execute(["ZADD", leases, 5, "ghost"])
    assert await kinds(busy) == {"lease"}


async def test_a_reservation_that_nothing_would_end_is_found(busy: Installation) -> None:
    leases = redis_keys.open_leases(redis_keys.tag(busy.org_id))
    (name,) = await busy.context.redis.execute(["ZRANGE", leases, 0, -1])
    await busy.context.redis.execute(["ZREM", leases, name])
    report = await run_audit(busy.context)
    assert [(finding.kind, finding.subject) for finding in report.findings] == [("orphan", name.decode())]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE rollup_hourly SET cost_microdollars = cost_microdollars + 1 WHERE org_id = :org", {"rollup"}),
        ("UPDATE rollup_hourly SET requests = requests - 1 WHERE org_id = :org", {"rollup"}),
        ("UPDATE rollup_hourly SET input_tokens = input_tokens + 1 WHERE org_id = :org", {"rollup"}),
        ("DELETE FROM rollup_hourly WHERE org_id = :org", {"rollup"}),
        (
            "UPDATE budget_windows SET settled_microdollars = settled_microdollars + 1 WHERE org_id = :org",
            {"settled", "window_events"},
        ),
        ("UPDATE budget_windows SET calls = calls + 1 WHERE org_id = :org", {"window_events"}),
        ("DELETE FROM budget_windows WHERE org_id = :org", {"settled", "window_events"}),
        (
            "UPDATE cost_events SET cost_microdollars = cost_microdollars + 1 WHERE org_id = :org AND rank = 2",
            {"rollup", "window_events", "event"},
        ),
        (
            "DELETE FROM cost_events WHERE org_id = :org AND cost_microdollars = 5",
            {"rollup", "window_events", "event", "settled"},
        ),
        ("UPDATE cost_event_keys SET rank = 3 WHERE org_id = :org AND rank = 2", {"event"}),
        ("UPDATE cost_events SET original_cost_microdollars = 1 WHERE org_id = :org", {"event"}),
    ],
)
async def test_books_that_do_not_agree_with_each_other_are_found(
    busy: Installation, statement: str, expected: set[str]
) -> None:
    await change(busy, statement)
    assert await kinds(busy) == expected


async def test_a_publication_that_is_not_what_postgresql_says_is_found(
    busy: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.ledger.audit._PUBLICATION_PAUSE_S", 0.001)
    prefix, redis = redis_keys.tag(busy.org_id), busy.context.redis
    _, scope = await window(busy)
    limit = redis_keys.limit(prefix, scope.budget_id)
    definition = redis_keys.policy(prefix, busy.org_id, "customer:acme")
    version = redis_keys.policy_version(prefix, busy.org_id)
    (grant, *_) = [name async for name in _grants(busy)]
    damages: list[tuple[list[Part], list[Part], str]] = [
        (["HSET", limit, "limit", 5], ["HSET", limit, "limit", 100_000], "limit"),
        (["HSET", limit, "version", 9], ["HSET", limit, "version", 1], "limit"),
        (["RENAME", definition, "x"], ["RENAME", "x", definition], "definition"),
        (["RENAME", grant, "x"], ["RENAME", "x", grant], "grant"),
        (["INCRBY", version, 5], ["DECRBY", version, 5], "policy_version"),
    ]
    for damage, repair, kind in damages:
        await redis.execute(damage)
        assert await kinds(busy) == {kind}, damage
        await redis.execute(repair)
    assert await kinds(busy) == set()
    await change(busy, "UPDATE budgets SET limit_microdollars = 5 WHERE org_id = :org")
    assert await kinds(busy) == {"limit"}
    await change(busy, "UPDATE budgets SET limit_microdollars = 100000, archived_at = now() WHERE org_id = :org")
    assert await kinds(busy) == {"limit", "definition"}


async def _grants(org: Installation) -> AsyncIterator[str]:
    for name in await org.context.redis.execute(["KEYS", "ns:grant:*"]):
        yield name.decode()


async def test_a_shard_that_admits_nothing_is_found(busy: Installation) -> None:
    await busy.context.redis.execute(["DEL", redis_keys.epoch(redis_keys.shard_tag(3))])
    report = await run_audit(busy.context)
    assert [(finding.kind, finding.subject) for finding in report.findings] == [("epoch", "shard 3")]


async def test_parked_entries_are_found_and_their_money_is_counted_while_the_stream_has_them(
    busy: Installation,
) -> None:
    _, scope = await window(busy)
    await busy.spend(77, [scope])
    await change(busy, "ALTER TABLE cost_events ADD CONSTRAINT small CHECK (cost_microdollars < 50) NOT VALID")
    await busy.ingest.drain()
    await change(busy, "ALTER TABLE cost_events DROP CONSTRAINT small")
    assert busy.ingest.parked == 2
    assert await kinds(busy) == {"parked"}
    stream = redis_keys.stream(redis_keys.tag(busy.org_id))
    await busy.context.redis.execute(["XTRIM", stream, "MAXLEN", 0])
    assert await kinds(busy) == {"parked", "settled"}


async def test_no_kind_floods_the_report(busy: Installation) -> None:
    leases = redis_keys.open_leases(redis_keys.tag(busy.org_id))
    await busy.context.redis.pipeline([["ZADD", leases, 5, f"ghost {number}"] for number in range(150)])
    report = await run_audit(busy.context)
    assert len(report.findings) == 100


async def test_an_audit_that_takes_too_long_says_so_instead_of_guessing(busy: Installation) -> None:
    hasty = busy.context.settings.model_copy(update={"stream_keep_s": 0.000_001})
    with pytest.raises(AuditInconclusive, match="try again"):
        await run_audit(replace(busy.context, settings=hasty))


async def test_audits_under_traffic_find_nothing(alone: Installation) -> None:
    """Calls, lapses, late settles, ingest and changed budgets, all at once, while audits run one after the other."""
    budgets = [await alone.budget(10**9, entityId=f"c{number}") for number in range(3)]
    scopes = [scope_of(budget) for budget in budgets]
    stop = asyncio.Event()

    async def calls(seed: int) -> None:
        dice = random.Random(seed)
        while not stop.is_set():
            chosen = dice.sample(scopes, dice.randint(1, 3))
            call = alone.event()
            if not isinstance(await alone.reserve(call, 100, chosen), Ok):
                continue  # a budget was changed in between
            if dice.random() < 0.3:
                await alone.context.ledger.expire(Expire(call.id, alone.org_id, tuple(chosen), force=True))
            if dice.random() < 0.9:
                await alone.settle(call, dice.randint(0, 150), chosen)

    async def ingest() -> None:
        while not stop.is_set():
            await alone.ingest.step()
            await asyncio.sleep(0.01)

    async def edits() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            path = f"/api/budgets/{budgets[number % 3]['id']}"
            await alone.admin.patch(path, json={"maxBudgetMicrodollars": 10**9 + number})
            await asyncio.sleep(0.02)

    async def audits() -> list[AuditReport]:
        try:
            return [await run_audit(alone.context) for _ in range(6)]
        finally:
            stop.set()

    *_, reports = await asyncio.gather(calls(1), calls(2), ingest(), edits(), audits())
    assert [finding for report in reports for finding in report.findings] == []
    assert sum(report.pending_entries for report in reports) > 0
    await alone.ingest.drain()
    assert (await run_audit(alone.context)).findings == ()
