"""The ledger on a real server: races, lifetimes, lost state, and everything the model has no word for."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
import redis.asyncio

from shared import redis_keys
from shared.clock import ManualClock, SystemClock
from shared.ledger import Denied, Ok, Reserve
from shared.ledger.redis import SCRIPTS, RedisLedger
from tests.ledger_verbs import (
    CUSTOMER,
    LEASE_MS,
    MONTH,
    ORG,
    expire,
    extend,
    publish,
    record,
    release,
    reserve,
    server_client,
    settle,
)
from tests.ledgers import OnServer, connect, dump, scope
from tests.valkey import valkey_server

PREFIX = redis_keys.tag(ORG)
WINDOW = redis_keys.window(PREFIX, MONTH.window_id)
DAY_MS = 24 * 3_600_000


@pytest.fixture(scope="module")
def path() -> Iterator[str]:
    with valkey_server() as path:
        yield path


@pytest.fixture
def client(path: str) -> Iterator[Any]:
    with connect(path) as client:
        client.flushall()
        yield client


@pytest.fixture
def ledger(client: Any) -> OnServer:
    on_server = OnServer(client, ManualClock(SystemClock().now_ms()))
    on_server.set_epoch(ORG, present=True)
    return on_server


async def test_of_64_calls_at_once_exactly_as_many_are_admitted_as_fit(path: str, ledger: OnServer) -> None:
    publish(ledger, 1_000_000)
    clients = [redis.asyncio.Redis(unix_socket_path=path, protocol=2) for _ in range(8)]
    everyone = asyncio.Barrier(64)

    async def one(number: int) -> object:
        mine: Any = clients[number % len(clients)]
        await everyone.wait()
        ledger = RedisLedger(lambda parts: mine.execute_command(*parts))
        return await ledger.reserve(Reserve(f"call{number}", ORG, 1, 100_000, (MONTH,), LEASE_MS, b""))

    try:
        replies = await asyncio.gather(*map(one, range(64)))
    finally:
        for one_client in clients:
            await one_client.aclose()
    assert sum(isinstance(reply, Ok) for reply in replies) == 10
    assert sum(isinstance(reply, Denied) for reply in replies) == 54
    assert ledger.client.hgetall(WINDOW) == {b"settled": b"0", b"held": b"1000000"}


def test_a_server_that_forgot_its_scripts_is_taught_them_again(ledger: OnServer, client: Any) -> None:
    publish(ledger, 1000)
    client.script_flush()
    assert isinstance(ledger.send(reserve(1)), Ok)
    assert client.script_exists(SCRIPTS["reserve"].sha1) == [True]


def test_without_an_override_the_servers_own_clock_decides(client: Any) -> None:
    on_server = OnServer(client, None)
    on_server.set_epoch(ORG, present=True)
    before = SystemClock().now_ms()
    reply = publish(on_server, 1000)
    assert isinstance(reply, Ok)
    assert before <= reply.now_ms <= SystemClock().now_ms()
    for number in range(10):
        on_server.send(reserve(1, f"call{number}"))
    leases = client.zrange(redis_keys.open_leases(PREFIX), 0, -1, withscores=True)
    assert len(leases) == 10
    assert all(score == int(score) for _, score in leases), "whole milliseconds"


def test_publishing_tells_who_listens_which_organisation_changed(ledger: OnServer, client: Any) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(redis_keys.CHANGES_CHANNEL)
        listener.get_message(timeout=5)
        publish(ledger, 1000)
        publish(ledger, 1000)
        message = listener.get_message(timeout=5)
        assert message is not None
        assert message["data"] == ORG.encode()
        assert listener.get_message() is None, "an old version is not announced"


def test_counters_outlive_their_window_by_eight_days_and_endless_ones_stay(ledger: OnServer, client: Any) -> None:
    end = SystemClock().now_ms() + 10_000
    daily = scope("daily", "acme", end - 60_000, end)
    publish(ledger, 1000)
    publish(ledger, 1000, "daily")
    ledger.send(reserve(1, scopes=(MONTH, daily)))
    ledger.send(settle(1, "unheld", scopes=(replace(daily, value="other"), MONTH)))
    assert client.pexpiretime(WINDOW) == -1
    for value in ("acme", "other"):
        key = redis_keys.window(PREFIX, replace(daily, value=value).window_id)
        assert client.pexpiretime(key) == end + 8 * DAY_MS


def test_a_live_reservation_never_expires_and_an_ended_one_after_48_hours(ledger: OnServer, client: Any) -> None:
    publish(ledger, 1000)
    reply = ledger.send(reserve(1))
    assert isinstance(reply, Ok)
    key = redis_keys.reservation(PREFIX, "call")
    assert client.pexpiretime(key) == -1
    ledger.send(settle(1))
    assert client.pexpiretime(key) == reply.now_ms + 2 * DAY_MS
    assert not client.hexists(key, "draft")


@pytest.mark.parametrize("verb", [settle(3), release(), expire(force=True)], ids=["settle", "release", "expire"])
def test_every_end_closes_the_lease(ledger: OnServer, client: Any, verb: Any) -> None:
    publish(ledger, 1000)
    ledger.send(reserve(5))
    ledger.send(reserve(5, "other"))
    assert isinstance(ledger.send(verb), Ok)
    assert client.zrange(redis_keys.open_leases(PREFIX), 0, -1) == [b"other"]


@pytest.mark.parametrize("verb", [settle(3), release(), expire(force=True)], ids=["settle", "release", "expire"])
def test_a_window_lost_by_the_server_never_goes_below_zero(ledger: OnServer, client: Any, verb: Any) -> None:
    end = SystemClock().now_ms() + 10_000
    daily = scope("daily", "acme", end - 60_000, end)
    publish(ledger, 1000, "daily")
    ledger.send(reserve(5, scopes=(daily,)))
    key = redis_keys.window(PREFIX, daily.window_id)
    client.delete(key)
    assert isinstance(ledger.send(replace(verb, scopes=(daily,))), Ok)
    assert client.hget(key, "held") == b"0"
    assert client.pexpiretime(key) == end + 8 * DAY_MS


def test_another_organisations_id_is_an_error_and_moves_nothing(ledger: OnServer, client: Any) -> None:
    stranger = next(name for name in map(str, range(10_000)) if redis_keys.shard_of(name) == redis_keys.shard_of(ORG))
    publish(ledger, 1000)
    ledger.send(reserve(5))
    before = dump(client)
    for verb in (reserve(5), settle(5), release(), expire(force=True), extend(1), record(5)):
        with pytest.raises(redis.ResponseError, match="another organisation"):
            ledger.send(replace(verb, org_id=stranger))
    assert dump(client) == before


def test_a_full_server_refuses_whole_verbs_and_never_half_of_one() -> None:
    with server_client("--maxmemory-policy", "noeviction") as client:
        ledger = OnServer(client, ManualClock(SystemClock().now_ms()))
        ledger.set_epoch(ORG, present=True)
        publish(ledger, 1000)
        publish(ledger, 1000, "customer")
        ledger.send(reserve(5, scopes=(MONTH, CUSTOMER)))
        before = dump(client)
        client.config_set("maxmemory", "1mb")
        for verb in (reserve(1, "next"), settle(5), release(), expire(force=True), extend(1), record(1, "r")):
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                ledger.send(verb)
        assert dump(client) == before
        client.config_set("maxmemory", "0")
        assert isinstance(ledger.send(settle(5)), Ok)


def test_the_scripts_run_on_a_cluster_node(tmp_path: Any) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes"), "--port", "0")
    with server_client(*options) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
            pass
        ledger = OnServer(client, ManualClock(SystemClock().now_ms()))
        ledger.set_epoch(ORG, present=True)
        publish(ledger, 1000)
        for verb in (reserve(5), extend(1), settle(5), release("b"), record(1, "c"), expire(force=True)):
            ledger.send(verb)
        assert client.hget(WINDOW, "settled") == b"6"
