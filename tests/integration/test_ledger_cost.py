"""What one call costs the server: measured and reported, not judged; machines differ.

`pytest -s tests/integration/test_ledger_cost.py` prints it; the XML report carries it as properties.
"""

import os
from typing import Any

from shared import redis_keys
from shared.ledger import Reserve, Scope, SetLimit, Settle
from shared.ledger.redis import encode
from tests.ledger_verbs import server_client

ORG = "ns_org_018f0000-0000-7000-8000-000000000001"
BUDGETS = [f"ns_bgt_018f0000-0000-7000-8000-00000000000{n}" for n in range(3)]
SCOPES = tuple(Scope(budget, "-", 1_780_272_000_000, 4_000_000_000_000) for budget in BUDGETS)
CALLS, IN_FLIGHT = 3_000, 50


def test_the_servers_time_for_reserve_and_settle_with_three_scopes(record_property: Any) -> None:
    event = os.urandom(600)
    with server_client() as client:
        client.set(redis_keys.epoch(redis_keys.tag(ORG)), "1")
        for budget in BUDGETS:
            client.execute_command(*encode(SetLimit(ORG, budget, 1, 10**15, False, 1, "org:a", b"[]")).with_source())
        spent_us = {"reserve": 0, "settle": 0}
        for first in range(0, CALLS, IN_FLIGHT):
            names = [f"ns_rsv_018f0000-0000-7000-8000-{n:012d}" for n in range(first, first + IN_FLIGHT)]
            spent_us["reserve"] += _spent_us(
                client, [Reserve(name, ORG, 1, 12_345, SCOPES, 60_000, event) for name in names]
            )
            spent_us["settle"] += _spent_us(client, [Settle(name, ORG, 9_876, SCOPES, event) for name in names])
        window = client.hgetall(redis_keys.window(redis_keys.tag(ORG), SCOPES[0].window_id))
    assert window == {b"settled": b"%d" % (9_876 * CALLS), b"held": b"0"}
    for verb, total in spent_us.items():
        record_property(f"{verb}_us", total / CALLS)
        print(f"{verb}: {total / CALLS:.1f} us of server time")


def _spent_us(client: Any, verbs: list[Reserve] | list[Settle]) -> int:
    client.script_load(encode(verbs[0]).script.source)
    client.config_resetstat()
    pipeline = client.pipeline(transaction=False)
    for verb in verbs:
        pipeline.execute_command(*encode(verb).parts)
    pipeline.execute()
    spent: int = client.info("commandstats")["cmdstat_evalsha"]["usec"]
    return spent
