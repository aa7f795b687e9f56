"""The bridge to Redis without a server: commands, replies, stream entries, and the rules of the scripts' text."""

import re
from dataclasses import replace
from typing import Any

import pytest

from shared.ledger import (
    AMOUNT_MAX,
    Expire,
    Extend,
    NoLimit,
    Ok,
    Read,
    Record,
    Release,
    Reserve,
    Scope,
    ScopeState,
    SetLimit,
    Settle,
    StreamEntry,
    Verb,
)
from shared.ledger.redis import SCRIPTS, RedisLedger, Retry, decode, decode_windows, encode, encode_windows, parse_entry
from shared.redis_keys import tag
from tests.ledgers import finished

ORG = "org_a"
SCOPES = (Scope("b1", "-", 0, 0), Scope("b2", "team a: blue", 1_700, 2_700))
RESERVE = Reserve("call", ORG, 3, 100, SCOPES, 60_000, b"draft")
SETTLE = Settle("call", ORG, 70, SCOPES, b"event")
VERBS: list[Verb] = [
    RESERVE,
    SETTLE,
    Extend("call", ORG, 1, SCOPES, 60_000),
    Release("call", ORG, SCOPES, b"event"),
    Expire("call", ORG, SCOPES, force=True),
    Record("call", ORG, 5, SCOPES, b"event"),
    SetLimit(ORG, "b1", 1, 1000, False, 3, "customer:a b", b"[]"),
    Read(ORG, SCOPES),
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: type(verb).__name__)
def test_all_keys_of_a_command_share_the_organisations_hash_tag(verb: Verb) -> None:
    parts = encode(verb).parts
    count = parts[2]
    assert isinstance(count, int)
    keys = parts[3 : 3 + count]
    assert len(keys) == len(set(keys)) == count > 0
    assert all(str(key).startswith(tag(ORG)) for key in keys)


def test_a_command_is_the_call_by_hash_and_can_carry_its_source() -> None:
    command = encode(RESERVE, now_ms=5)
    assert command.script is SCRIPTS["reserve"]
    assert command.parts[:3] == ["EVALSHA", command.script.sha1, 9]
    assert command.parts[12:] == [5, ORG, "call", 100, "0 b1:0:-\n2700 b2:1700:team a: blue", 60_000, 3, b"draft"]
    assert command.with_source() == ["EVAL", command.script.source, *command.parts[2:]]


def test_windows_survive_their_text_whatever_the_value_holds() -> None:
    for scopes in ((), SCOPES[:1], SCOPES):
        assert decode_windows(encode_windows(scopes)) == scopes


@pytest.mark.parametrize(
    "verb",
    [
        replace(RESERVE, scopes=(SCOPES[0], SCOPES[0])),
        replace(RESERVE, amount=AMOUNT_MAX + 1),
        replace(RESERVE, amount=-1),
        replace(SETTLE, amount=-1),
        replace(SETTLE, scopes=(Scope("b1", "a\nb", 0, 0),)),
        replace(SETTLE, scopes=(Scope("b:1", "-", 0, 0),)),
        SetLimit(ORG, "b1", 1, 2**53, False, 3, "org:a", b"[]"),
    ],
    ids=["a budget twice", "too much", "negative", "negative cost", "line break", "colon", "inexact limit"],
)
def test_what_no_caller_may_ask_is_an_assertion(verb: Verb) -> None:
    with pytest.raises(AssertionError):
        encode(verb)


def test_numbers_come_back_from_text_and_integers_alike() -> None:
    reply = decode(RESERVE, [b"ok", 5, 7, b"9007199254740991", b"0", 100, b"1", b"2", 3])
    assert reply == Ok(5, 7, (ScopeState(2**53 - 1, 0, 100), ScopeState(1, 2, 3)))
    assert decode(RESERVE, [b"no_limit", 2]) == NoLimit("b2")


def test_other_windows_than_those_of_the_birth_are_asked_again_with_the_right_ones() -> None:
    assert decode(replace(SETTLE, scopes=()), [b"windows", encode_windows(SCOPES).encode()]) == Retry(SETTLE)


def test_an_unknown_reply_is_an_error() -> None:
    with pytest.raises(AssertionError, match="not a reply"):
        decode(SETTLE, [b"well"])


def test_an_entry_of_the_stream_is_read_back() -> None:
    fields = {b"k": b"cost", b"id": b"call", b"org": b"org_a", b"rank": b"2", b"cost": b"70", b"ms": b"5"}
    fields |= {b"w": encode_windows(SCOPES).encode(), b"f": b"late,trued_up", b"e": b"{}"}
    windows = ("b1:0:-", "b2:1700:team a: blue")
    assert parse_entry(fields) == StreamEntry("call", ORG, 2, 70, 5, windows, ("late", "trued_up"), b"{}")
    bare = parse_entry(fields | {b"w": b"", b"f": b""})
    assert (bare.windows, bare.flags) == ((), ())
    with pytest.raises(ValueError, match="not a cost event"):
        parse_entry({b"k": b"decision"})


class UnknownScript(Exception):
    pass


def test_a_server_without_the_script_gets_its_source_and_other_errors_pass() -> None:
    sent: list[Any] = []

    async def execute(parts: list[Any]) -> Any:
        sent.append(parts[0])
        if parts[0] == "EVALSHA":
            raise UnknownScript("NOSCRIPT No matching script." if parts[-1] == b"event" else "OOM")
        return [b"ok", 5, 7]

    ledger = RedisLedger(execute)
    assert finished(ledger.settle(SETTLE)) == Ok(5, 7)
    assert sent == ["EVALSHA", "EVAL"]
    with pytest.raises(UnknownScript, match="OOM"):
        finished(ledger.settle(replace(SETTLE, event=b"other")))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_never_turn_numbers_into_text_and_stay_off_unbounded_data(name: str) -> None:
    code = re.sub(r"--[^\n]*", "", SCRIPTS[name].source)
    assert not re.search(r"tostring|cjson|string\.format|\.\.|tonumber", code)
    assert not re.search(r"'(KEYS|SCAN|HGETALL|XRANGE|EVAL|SELECT|FLUSH\w*)'", code)
    assert "redis.pcall" not in code, "an error must end the script"
