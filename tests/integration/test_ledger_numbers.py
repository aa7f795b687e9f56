"""Numbers on the server: plain integers up to 2^53 - 1, and nothing but whole numbers is ever counted with."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from shared import redis_keys
from shared.clock import ManualClock, SystemClock
from shared.ledger import AMOUNT_MAX, Denied, Ok, Read, ScopeState
from shared.ledger.redis import encode
from tests.ledger_verbs import MONTH, ORG, extend, publish, record, reserve, server_client, settle
from tests.ledgers import OnServer, dump

PREFIX = redis_keys.tag(ORG)
WINDOW = redis_keys.window(PREFIX, MONTH.window_id)
LIMIT = redis_keys.limit(PREFIX, MONTH.budget_id)
CALL = redis_keys.reservation(PREFIX, "call")
EXACT_MAX = 2**53 - 1


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with server_client() as client:
        yield client


@pytest.fixture
def ledger(client: Any) -> OnServer:
    client.flushall()
    on_server = OnServer(client, ManualClock(SystemClock().now_ms()))
    on_server.set_epoch(ORG, present=True)
    return on_server


def test_amounts_of_a_million_dollars_are_stored_as_plain_integers(ledger: OnServer, client: Any) -> None:
    publish(ledger, 10**15)
    ledger.send(reserve(AMOUNT_MAX))
    assert client.hgetall(WINDOW) == {b"settled": b"0", b"held": b"1000000000000"}
    ledger.send(extend(AMOUNT_MAX))
    assert client.hget(CALL, "amount") == b"2000000000000"
    ledger.send(settle(AMOUNT_MAX))
    assert client.hgetall(WINDOW) == {b"settled": b"1000000000000", b"held": b"0"}
    assert client.hget(LIMIT, "limit") == b"1000000000000000"


@pytest.mark.parametrize("before", [10**15 - AMOUNT_MAX, 10**14, 999 * 10**12, EXACT_MAX - AMOUNT_MAX], ids=str)
def test_sums_up_to_the_largest_exact_number_are_plain_integers(ledger: OnServer, client: Any, before: int) -> None:
    publish(ledger, EXACT_MAX)
    client.hset(WINDOW, mapping={"settled": before, "held": 0})
    reply = ledger.send(reserve(AMOUNT_MAX))
    assert isinstance(reply, Ok)
    assert reply.scopes == (ScopeState(EXACT_MAX, before, AMOUNT_MAX),)
    assert client.hget(WINDOW, "held") == b"1000000000000"
    ledger.send(settle(AMOUNT_MAX))
    assert client.hget(WINDOW, "settled") == b"%d" % (before + AMOUNT_MAX)
    read = ledger.send(Read(ORG, (MONTH,)))
    assert isinstance(read, Ok)
    assert read.scopes == (ScopeState(EXACT_MAX, before + AMOUNT_MAX, 0),)


def test_holds_add_up_to_the_largest_exact_number(ledger: OnServer, client: Any) -> None:
    publish(ledger, EXACT_MAX)
    client.hset(WINDOW, mapping={"settled": 0, "held": EXACT_MAX - 1})
    assert isinstance(ledger.send(reserve(1)), Ok)
    assert client.hget(WINDOW, "held") == b"9007199254740991"
    assert isinstance(ledger.send(reserve(1, "next")), Denied)


def test_spend_beyond_the_exact_numbers_is_still_booked_exactly_and_refuses_everything(
    ledger: OnServer, client: Any
) -> None:
    publish(ledger, EXACT_MAX)
    client.hset(WINDOW, mapping={"settled": EXACT_MAX, "held": 0})
    ledger.send(record(4, "dear"))
    assert client.hget(WINDOW, "settled") == b"9007199254740995"
    assert isinstance(ledger.send(reserve(0)), Denied)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0x10", "1e3", "1.5", "-5", " 5", ""])
@pytest.mark.parametrize("place", ["limit", "settled", "held"])
def test_what_is_not_a_whole_number_admits_nothing_and_changes_nothing(
    ledger: OnServer, client: Any, place: str, text: str
) -> None:
    publish(ledger, 1000)
    client.hset(WINDOW, mapping={"settled": 0, "held": 0})
    client.hset(LIMIT if place == "limit" else WINDOW, place, text)
    before = dump(client)
    with pytest.raises(redis.ResponseError, match="whole number"):
        ledger.send(reserve(1))
    if place != "limit":
        with pytest.raises(redis.ResponseError, match="whole number"):
            ledger.send(record(1))
        with pytest.raises(redis.ResponseError, match="whole number"):
            ledger.send(settle(1))
    assert dump(client) == before
    assert ledger.stream(ORG) == []


def test_an_extension_checks_its_numbers_too(ledger: OnServer, client: Any) -> None:
    publish(ledger, 1000)
    ledger.send(reserve(1))
    client.hset(WINDOW, "settled", "nan")
    before = dump(client)
    with pytest.raises(redis.ResponseError, match="whole number"):
        ledger.send(extend(1))
    assert dump(client) == before


@pytest.mark.parametrize("argument", [3, 5], ids=["amount", "lease"])
@pytest.mark.parametrize("text", ["nan", "0x10", "-1", "1e3", ""])
def test_arguments_are_checked_before_anything_is_written(
    ledger: OnServer, client: Any, argument: int, text: str
) -> None:
    publish(ledger, 1000)
    before = dump(client)
    parts = encode(reserve(1)).with_source()
    parts[3 + int(parts[2]) + argument] = text
    with pytest.raises(redis.ResponseError, match="whole number"):
        client.execute_command(*parts)
    assert dump(client) == before
