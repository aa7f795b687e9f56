"""From the event streams into PostgreSQL: once, in any order, and never lost."""

import asyncio
import random
from collections import defaultdict
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text

from control_plane.kernel.db import Database, DatabaseUnavailable
from control_plane.kernel.redis import RedisServer, RedisUnavailable
from control_plane.ledger import books
from control_plane.spend.ingest import Ingest
from control_plane.spend.stream import Trimmer
from shared import redis_keys
from shared.events import encode_event
from shared.ids import uuid7
from shared.ledger import Expire, Ok, Scope
from tests.integration.control_plane.support import Installation, scope_of


async def rows(org: Installation, statement: str) -> list[Any]:
    async with org.context.database.read_only() as session:
        return list((await session.execute(text(statement), {"org": org.org_id})).all())


async def window_sums(org: Installation) -> dict[str, tuple[int, int]]:
    found = await rows(
        org,
        "SELECT budget_id || ':' || window_start_ms || ':' || scope_value AS id, settled_microdollars AS s, calls AS c "
        "FROM budget_windows WHERE org_id = :org",
    )
    return {row.id: (row.s, row.c) for row in found}


async def disagreements(org: Installation) -> list[Any]:
    """Rollups and windows against the sum of the events, computed independently."""
    async with org.context.database.snapshot() as session:
        return list(await books.findings(session, [UUID(org.org_id)]))


def stream(org: Installation) -> str:
    return redis_keys.stream(redis_keys.tag(org.org_id))


async def state(event: Installation, call: str) -> Any:
    (row,) = await rows(event, f"SELECT * FROM cost_events WHERE org_id = :org AND event_id = '{call}'")
    return row


async def append(ready: Installation, /, **fields: Any) -> str:
    """One entry of the stream as the ledger writes it."""
    event = ready.event()
    entry = {
        "k": "cost",
        "id": event.id,
        "org": ready.org_id,
        "rank": 2,
        "cost": 10,
        "ms": 1_790_000_000_500,
        "w": "",
        "f": "",
        "e": encode_event(event),
        **fields,
    }
    flat = [part for pair in entry.items() for part in pair]
    await ready.context.redis.execute(["XADD", stream(ready), "*", *flat])
    return str(entry["id"])


async def test_a_settled_call_becomes_a_row_a_rollup_and_a_window(ready: Installation) -> None:
    scope = scope_of(await ready.budget())
    call = await ready.spend(900, [scope], session_id="s-1", tags={"feature": "search"}, flags=["estimated"])
    assert await ready.ingest.drain() == 1
    row = await state(ready, call.id)
    assert (row.cost_microdollars, row.original_cost_microdollars, row.rank, row.revision) == (900, 900, 2, 0)
    assert (row.cost_input, row.cost_output) == (600, 300)
    assert (row.session_id, row.tags, row.flags) == ("s-1", {"feature": "search"}, ["estimated"])
    assert row.windows == [scope.window_id]
    assert await window_sums(ready) == {scope.window_id: (900, 1)}
    (rollup,) = await rows(ready, "SELECT * FROM rollup_hourly WHERE org_id = :org")
    assert (rollup.requests, rollup.cost_microdollars, rollup.input_tokens) == (1, 900, 100)
    assert rollup.hour.isoformat() == "2026-09-21T14:00:00+00:00"


async def test_a_lapse_and_its_true_up_are_one_call_with_a_revision(ready: Installation) -> None:
    scope = scope_of(await ready.budget())
    call = ready.event(outcome="cut_off", cost_source="bound")
    await ready.reserve(call, 500, [scope], lease_ms=1)
    await asyncio.sleep(0.01)
    assert isinstance(await ready.context.ledger.expire(Expire(call.id, ready.org_id, (scope,))), Ok)
    await ready.ingest.drain()
    row = await state(ready, call.id)
    assert (row.cost_microdollars, row.rank, row.flags, row.cost_source) == (500, 1, ["lapsed"], "bound")
    assert row.cost_input is None
    await ready.settle(replace(call, outcome="completed", cost_source="exact", model="gpt-4o-mini"), 120, [scope])
    await ready.ingest.drain()
    row = await state(ready, call.id)
    assert (row.cost_microdollars, row.original_cost_microdollars, row.rank, row.revision) == (120, 500, 2, 1)
    assert (row.outcome, row.flags) == ("completed", ["trued_up"])
    (revision,) = await rows(ready, "SELECT * FROM cost_event_revisions WHERE org_id = :org")
    assert (revision.revision, revision.cost_microdollars, revision.delta_microdollars) == (1, 120, -380)
    assert await window_sums(ready) == {scope.window_id: (120, 1)}
    assert await disagreements(ready) == []
    shown = (await ready.admin.get(f"/api/cost-events/{call.id}")).json()["data"]
    assert (shown["costMicrodollars"], shown["originalCostMicrodollars"], shown["revision"]) == (120, 500, 1)
    assert [entry["deltaMicrodollars"] for entry in shown["revisions"]] == [-380]


async def test_a_release_after_a_lapse_costs_nothing_and_a_late_settle_wins_over_a_release(ready: Installation) -> None:
    scope = scope_of(await ready.budget())
    lapsed, released = ready.event(), ready.event()
    for call in (lapsed, released):
        await ready.reserve(call, 500, [scope])
    await ready.context.ledger.expire(Expire(lapsed.id, ready.org_id, (scope,), force=True))
    await ready.release(lapsed, [scope])
    await ready.release(released, [scope])
    await ready.settle(released, 70, [scope])
    await ready.ingest.drain()
    assert (await state(ready, lapsed.id)).cost_microdollars == 0
    late = await state(ready, released.id)
    assert (late.cost_microdollars, late.rank, late.flags) == (70, 3, ["late"])
    assert await window_sums(ready) == {scope.window_id: (70, 2)}
    assert await disagreements(ready) == []


async def test_a_batch_that_was_committed_but_not_acknowledged_changes_nothing_the_second_time(
    ready: Installation,
) -> None:
    scope = scope_of(await ready.budget())
    for amount in (5, 6, 7):
        await ready.spend(amount, [scope])
    crashed = Ingest(ready.context.database, ready.context.redis, consumer="test", batch=100)
    entries = await crashed._reader.new(block_ms=None)
    await crashed.book(entries)  # and dies before it acknowledges
    before = await window_sums(ready)
    again = Ingest(ready.context.database, ready.context.redis, consumer="test", batch=100)
    assert await again.drain() == 3
    assert await window_sums(ready) == before == {scope.window_id: (18, 3)}
    assert await disagreements(ready) == []
    pending = await ready.context.redis.execute(["XPENDING", stream(ready), redis_keys.INGEST_GROUP])
    assert pending[0] == 0


async def test_more_entries_than_a_batch_left_by_a_crash_are_all_read_again(ready: Installation) -> None:
    for _ in range(25):
        await append(ready)
    crashed = Ingest(ready.context.database, ready.context.redis, consumer="test", batch=10)
    while await crashed._reader.new(block_ms=None):
        pass
    again = Ingest(ready.context.database, ready.context.redis, consumer="test", batch=10)
    assert await again.drain() == 25
    assert again.booked == 25


async def test_entries_of_a_consumer_that_never_came_back_are_taken_over(
    ready: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.spend.stream._ABANDONED_MS", 0)
    await append(ready)
    dead = Ingest(ready.context.database, ready.context.redis, consumer="dead", batch=10)
    assert len(await dead._reader.new(block_ms=None)) == 1
    heir = Ingest(ready.context.database, ready.context.redis, consumer="heir", batch=10)
    assert await heir.drain() == 1
    assert heir.booked == 1


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_any_repetition_of_statements_ends_in_the_same_rows(ready: Installation, seed: int) -> None:
    dice = random.Random(seed)
    budgets = [scope_of(await ready.budget(entityId=f"c{n}")) for n in range(3)]
    calls = [uuid7() for _ in range(8)]
    statements: list[tuple[str, int, int, list[Scope]]] = []
    final: dict[str, tuple[int, int, list[Scope]]] = {}
    for call in calls:
        windows = dice.sample(budgets, dice.randint(0, 3))
        for rank in dice.sample((1, 2, 3), dice.randint(1, 3)):
            cost = dice.randint(0, 1000)
            statements.append((call, rank, cost, windows))
            if rank > final.get(call, (0, 0, []))[0]:
                final[call] = (rank, cost, windows)
    deliveries = statements * 2
    dice.shuffle(deliveries)
    ingest = Ingest(ready.context.database, ready.context.redis, consumer="test", batch=dice.choice((1, 3, 100)))
    for number, (call, rank, cost, windows) in enumerate(deliveries):
        await append(
            ready,
            id=call,
            rank=rank,
            cost=cost,
            w="\n".join(f"{scope.window_end_ms} {scope.window_id}" for scope in windows),
            e=encode_event(ready.event(id=call, model=f"m{rank}", input_tokens=rank)),
        )
        if number % 7 == 0:
            await ingest.drain()
    await ingest.drain()
    found = await rows(ready, "SELECT event_id, rank, cost_microdollars AS cost FROM cost_events WHERE org_id = :org")
    assert {str(row.event_id): (row.rank, row.cost) for row in found} == {
        call: (rank, cost) for call, (rank, cost, _) in final.items()
    }
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for _, cost, windows in final.values():
        for scope in windows:
            sums[scope.window_id][0] += cost
            sums[scope.window_id][1] += 1
    kept = {name: total for name, total in (await window_sums(ready)).items() if total != (0, 0)}
    assert kept == {name: (total, count) for name, (total, count) in sums.items()}
    assert await disagreements(ready) == []


async def test_two_consumers_at_once_book_every_call_once(ready: Installation) -> None:
    scope = scope_of(await ready.budget())
    for number in range(60):
        call = uuid7()
        for rank in (1, 2):
            event = encode_event(ready.event(id=call))
            await append(ready, id=call, rank=rank, cost=rank * 10 + number, w=f"0 {scope.window_id}", e=event)
    consumers = [Ingest(ready.context.database, ready.context.redis, consumer=f"c{n}", batch=4) for n in range(3)]
    await asyncio.gather(*(consumer.drain() for consumer in consumers))
    assert await window_sums(ready) == {scope.window_id: (sum(20 + n for n in range(60)), 60)}
    assert await disagreements(ready) == []


POISON: dict[str, dict[str, Any]] = {
    "another kind": {"k": "decision"},
    "no number": {"cost": "nan"},
    "a negative cost": {"cost": -5},
    "a cost beyond the ledger's": {"cost": 10**12 + 1},
    "no body": {"e": b""},
    "a body of another call": {"e": b'{"id":"x"}'},
    "an id that is none": {"id": "not-a-uuid"},
    "an unknown organisation": {"org": "0192aaaa-0000-7000-8000-000000000001"},
    "a window that is none": {"w": "0 nonsense"},
    "a budget nobody made": {"w": "0 0192aaaa-0000-7000-8000-000000000001:0:-"},
}


@pytest.mark.parametrize("fields", POISON.values(), ids=POISON.keys())
async def test_a_poison_entry_is_parked_and_its_neighbours_are_booked(
    ready: Installation, fields: dict[str, Any]
) -> None:
    before = [await append(ready) for _ in range(3)]
    await append(ready, **fields)
    after = [await append(ready) for _ in range(3)]
    assert await ready.ingest.drain() == 7
    found = await rows(ready, "SELECT event_id FROM cost_events WHERE org_id = :org")
    assert {str(row.event_id) for row in found} == {*before, *after}
    parked = await rows(ready, "SELECT * FROM ingest_parked ORDER BY parked_at DESC LIMIT 1")
    assert parked[0].stream == stream(ready)
    assert parked[0].error
    kept = dict(zip(parked[0].fields[::2], parked[0].fields[1::2], strict=True))
    assert kept[b"ms"] == b"1790000000500"
    assert ready.ingest.parked == 1
    pending = await ready.context.redis.execute(["XPENDING", stream(ready), redis_keys.INGEST_GROUP])
    assert pending[0] == 0


async def test_a_field_of_the_wrong_type_is_poison_and_not_a_crash(ready: Installation) -> None:
    for name, value in (
        ("input_tokens", "many"),
        ("input_tokens", 1.5),
        ("output_tokens", -1),
        ("requested_at_ms", 2**62),
    ):
        call = uuid7()
        body = orjson.dumps({**orjson.loads(encode_event(ready.event(id=call))), name: value})
        await append(ready, id=call, e=body)
    good = await append(ready)
    await ready.ingest.drain()
    assert ready.ingest.parked == 4
    assert (await state(ready, good)).cost_microdollars == 10


async def test_money_is_not_lost_over_a_label_that_cannot_be_stored(ready: Installation) -> None:
    call = uuid7()
    event = ready.event(id=call, model="gpt\0-4o", tags={"k": "a\\u0000b\0"}, customer_id="acme")
    await append(ready, id=call, e=encode_event(event))
    await ready.ingest.drain()
    row = await state(ready, call)
    assert (row.model, row.tags) == ("gpt\ufffd-4o", {"k": "a\\u0000b\ufffd"})


async def test_money_comes_from_the_entry_and_not_from_its_body(ready: Installation) -> None:
    call = uuid7()
    event = ready.event(id=call, flags=["estimated"], estimated_cost_microdollars=99)
    await append(ready, id=call, cost=42, f="hold_missing", e=encode_event(event))
    await ready.ingest.drain()
    row = await state(ready, call)
    assert (row.cost_microdollars, row.estimated_cost_microdollars) == (42, 99)
    assert row.flags == ["estimated", "hold_missing"]


async def test_unknown_fields_of_a_newer_writer_are_ignored(ready: Installation) -> None:
    call = uuid7()
    body = encode_event(ready.event(id=call))[:-1] + b',"novelty":{"deep":[1]}}'
    await append(ready, id=call, e=body, novelty="1")
    await ready.ingest.drain()
    assert (await state(ready, call)).cost_microdollars == 10


async def test_an_event_of_any_month_finds_a_place(ready: Installation) -> None:
    calls = []
    for requested_at_ms in (0, 1_000_000_000_000, 4_000_000_000_000):
        call = uuid7()
        await append(ready, id=call, e=encode_event(ready.event(id=call, requested_at_ms=requested_at_ms)))
        calls.append(call)
    await ready.ingest.drain()
    for call in calls:
        assert (await ready.admin.get(f"/api/cost-events/{call}")).status_code == 200


async def test_rows_of_the_default_partition_move_into_the_month_that_is_made_for_them(ready: Installation) -> None:
    async with ready.context.database.transaction() as session:
        name = await session.scalar(text("SELECT 'cost_events_' || to_char(now(), 'YYYY_MM')"))
        await session.execute(text(f"ALTER TABLE cost_events DETACH PARTITION {name}"))
        await session.execute(text(f"DROP TABLE {name}"))
        now_ms = await session.scalar(text("SELECT (extract(epoch FROM now()) * 1000)::bigint"))
    call = uuid7()
    await append(ready, id=call, e=encode_event(ready.event(id=call, requested_at_ms=int(now_ms or 0))))
    await ready.ingest.drain()
    async with ready.context.database.transaction() as session:
        where = text("SELECT tableoid::regclass::text FROM cost_events WHERE event_id = :id")
        assert await session.scalar(where, {"id": call}) == "cost_events_default"
        assert await session.scalar(text("SELECT ensure_cost_event_partitions(3)")) == 1
        assert await session.scalar(where, {"id": call}) == name
        assert await session.scalar(text("SELECT ensure_cost_event_partitions(3)")) == 0


async def test_what_was_read_is_kept_while_postgresql_is_away(ready: Installation) -> None:
    await append(ready)
    away = Database("postgresql://u:p@/nullspend?host=/nowhere&port=5432")
    ingest = Ingest(away, ready.context.redis, consumer="test", batch=10)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await ingest.step()
    ingest._database = ready.context.database
    assert await ingest.step() == 1
    assert ingest.booked == 1
    await away.close()


async def test_a_redis_that_is_away_is_waited_for(ready: Installation) -> None:
    away = RedisServer("unix:///nowhere/valkey.sock")
    with pytest.raises(RedisUnavailable):
        await Ingest(ready.context.database, away, consumer="test").step()
    await away.close()


async def test_an_emptied_redis_gets_its_groups_anew(ready: Installation) -> None:
    await append(ready)
    assert await ready.ingest.drain() == 1
    await ready.context.redis.execute(["FLUSHALL"])
    await ready.ingest.drain()
    await append(ready)
    await ready.ingest.step()
    assert ready.ingest.booked == 2


async def test_only_entries_that_were_acknowledged_a_while_ago_are_trimmed(ready: Installation) -> None:
    redis, name = ready.context.redis, stream(ready)
    trimmer = Trimmer(redis, keep_s=0.05)
    for _ in range(3):
        await append(ready)
    await ready.ingest.drain()
    await trimmer.trim()
    assert await redis.execute(["XLEN", name]) == 3, "acknowledged just now"
    unread = await append(ready)
    await asyncio.sleep(0.06)
    await trimmer.trim()
    left = await redis.execute(["XRANGE", name, "-", "+"])
    assert len(left) == 2, "the last acknowledged entry and the unread one"
    assert unread.encode() in left[-1][1]
    reader = Ingest(ready.context.database, redis, consumer="slow", batch=10)._reader
    assert len(await reader.new(block_ms=None)) == 1
    for _ in range(2):
        await append(ready)
        await asyncio.sleep(0.06)
        await trimmer.trim()
    ids = [row[0] for row in await redis.execute(["XRANGE", name, "-", "+"])]
    assert left[-1][0] in ids, "pending entries stay"


async def test_every_window_of_a_call_moves(ready: Installation) -> None:
    budgets = [await ready.budget(entityId=f"c{n}") for n in range(2)]
    scopes = [scope_of(budgets[0]), Scope(budgets[1]["id"].removeprefix("ns_bgt_"), "-", 1000, 2000)]
    await ready.spend(7, scopes)
    await ready.ingest.drain()
    assert await window_sums(ready) == {scope.window_id: (7, 1) for scope in scopes}
    ends = await rows(ready, "SELECT window_start_ms AS s, window_end_ms AS e FROM budget_windows WHERE org_id = :org")
    assert sorted((row.s, row.e) for row in ends) == [(0, 0), (1000, 2000)]
