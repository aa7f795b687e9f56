"""What a worker says of itself: to everybody whether it serves and enforces, to operators its numbers, and no names."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from control_plane.prices.book import CompiledBook
from shared import redis_keys
from shared.redis_wire import RedisClient
from tests.integration.data_plane import caller
from tests.integration.data_plane.caller import Reply
from tests.integration.data_plane.conftest import NewPlane
from tests.integration.data_plane.expected import assert_refused
from tests.integration.data_plane.harness import OPS_SECRET, Plane, connected, publish_prices, until, working
from tests.integration.data_plane.servers import Store, answers
from tests.integration.data_plane.surfaces import ANTHROPIC, OPENAI
from tests.integration.data_plane.tenant import Tenant
from tests.integration.data_plane.upstream import Received, Upstream, Wire, whole

SECRET = [("X-Ops-Health-Secret", OPS_SECRET)]
LINE = re.compile(r"(# TYPE \w+ (counter|gauge|histogram)|(\w+)\{([^}]*)\} (\d+(?:\.\d+)?))")


def ask(path: str, headers: caller.Named = ()) -> bytes:
    return caller.request(path, headers=headers, method="GET")


async def ready(plane: Plane) -> tuple[int, dict[str, Any]]:
    reply = await plane.send(ask("/health/ready"))
    document: dict[str, Any] = reply.json()
    return reply.status, document


async def test_health_is_static_and_open_to_all(plane: Plane) -> None:
    reply = await plane.send(ask("/health"))
    assert (reply.status, reply.json()) == (200, {"status": "ok", "service": "nullspend-proxy"})
    assert (reply.header("NullSpend-Version"), reply.header("cache-control")) == ("2026-04-01", "no-store")


async def test_a_whole_worker_serves_and_enforces(plane: Plane) -> None:
    status, document = await ready(plane)
    assert (status, document["status"], document["serving"], document["enforcing"]) == (200, "ok", True, True)
    assert document["checks"]["redis"] is True
    assert str(document["checks"]["prices"]).startswith("genai-prices@")
    assert document["checks"]["journal"] == 0


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    with Store() as store:
        yield store


async def test_without_its_ledger_a_worker_serves_and_does_not_enforce(
    store: Store, prices: CompiledBook, upstream: Upstream
) -> None:
    async with connected(store.url) as redis:
        await answers(redis)
        await publish_prices(redis, prices)
        async with working(store.url, upstream.url) as worker:
            tenant = Tenant(redis)
            plane = Plane(worker, tenant, await tenant.key(), upstream, store.url)
            assert (await ready(plane))[0] == 200
            store.kill()
            await until(lambda: not worker._redis.connected)
            status, document = await ready(plane)
            assert (status, document["serving"], document["enforcing"]) == (503, True, False)
            assert document["checks"]["redis"] is False
            assert (await plane.send(ask("/health"))).status == 200
            store.start()
            await answers(redis)

            async def whole_again() -> bool:
                return (await ready(plane))[0] == 200

            await until(whole_again)


async def test_without_prices_a_worker_serves_and_does_not_enforce(redis: RedisClient, new_plane: NewPlane) -> None:
    await redis.execute("DEL", redis_keys.PRICES_CURRENT)
    status, document = await ready(await new_plane())
    assert (status, document["serving"], document["enforcing"]) == (503, True, False)
    assert document["checks"]["prices"] is None


async def test_a_worker_that_ends_enforces_and_does_not_serve(plane: Plane) -> None:
    """It takes no connection any more that could ask."""
    go = asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        wire.begin()
        await go.wait()
        wire.end()

    plane.upstream.play = late
    async with await plane.connect() as client:
        client.send(plane.request(ANTHROPIC, stream=True))
        reply = await client.head()
        stopping = asyncio.create_task(plane.worker.stop())
        await until(lambda: plane.worker._server.draining)
        readiness = plane.worker._readiness()
        with pytest.raises(ConnectionRefusedError):
            await ready(plane)
        go.set()
        await client.body_of(reply)
    await stopping
    assert reply.complete
    assert (readiness["status"], readiness["serving"], readiness["enforcing"]) == ("unavailable", False, True)


# --- metrics


@pytest.mark.parametrize("headers", [[], [("x-ops-health-secret", "")], [("x-ops-health-secret", "operation\xf1")]])
async def test_metrics_need_the_secret_of_operations(plane: Plane, headers: caller.Named) -> None:
    assert_refused(await plane.send(ask("/metrics", headers)), 401, "unauthorized")
    key = [("X-NullSpend-Key", plane.key.secret)]
    assert_refused(await plane.send(ask("/metrics", key)), 401, "unauthorized")


@pytest.mark.parametrize("secret", ["", "None", "x"])
async def test_without_a_secret_there_are_no_metrics(new_plane: NewPlane, secret: str) -> None:
    plane = await new_plane(ops_secret=None)
    reply = await plane.send(ask("/metrics", [("x-ops-health-secret", secret)]))
    assert_refused(reply, 401, "unauthorized")


async def metrics(plane: Plane) -> dict[str, float]:
    """Every series by its name and labels; every line must be well-formed."""
    reply = await plane.send(ask("/metrics", SECRET))
    assert (reply.status, reply.header("content-type")) == (200, "text/plain; version=0.0.4")
    found: dict[str, float] = {}
    for line in reply.body.decode().splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        if match[3]:
            assert f"{match[3]}{{{match[4]}}}" not in found
            found[f"{match[3]}{{{match[4]}}}"] = float(match[5])
    return found


async def busy(plane: Plane) -> list[Reply]:
    """Calls of every kind, with labels that would tell whose they were."""
    labels = [("X-NullSpend-Customer", "customer-7"), ("X-NullSpend-Tags", '{"feature":"tag-7"}')]
    replies = [await plane.call(headers=[*labels, ("X-NullSpend-Session", "session-7")]) for _ in range(3)]
    await plane.tenant.budget(0, "customer", "customer-7")
    replies.append(await plane.call(headers=labels))
    replies.append(await plane.call(body=b"nothing"))
    plane.upstream.play = whole(b"{}", status=500)
    replies.append(await plane.call(ANTHROPIC))
    return replies


async def test_metrics_count_what_happened(plane: Plane) -> None:
    assert [reply.status for reply in await busy(plane)] == [200, 200, 200, 429, 400, 500]
    await plane.tenant.ended(4)
    found = await metrics(plane)
    own = 'worker="0"'
    assert found[f'nullspend_calls_total{{{own},surface="chat.completions",outcome="completed"}}'] == 3
    assert found[f'nullspend_calls_total{{{own},surface="messages",outcome="refused"}}'] == 1
    assert found[f'nullspend_refusals_total{{{own},code="customer_budget_exceeded"}}'] == 1
    assert found[f'nullspend_refusals_total{{{own},code="bad_request"}}'] == 1
    assert found[f"nullspend_charged_microdollars_total{{{own}}}"] == 3 * OPENAI.cost
    assert found[f"nullspend_holds_live{{{own}}}"] == found[f"nullspend_journal_depth{{{own}}}"] == 0
    assert found[f"nullspend_redis_connected{{{own}}}"] == 1
    buckets = [value for name, value in found.items() if name.startswith("nullspend_overhead_seconds_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found[f"nullspend_overhead_seconds_count{{{own}}}"] == 4


async def test_metrics_name_nobody(plane: Plane) -> None:
    await busy(plane)
    body = (await plane.send(ask("/metrics", SECRET))).body.decode()
    names = [plane.tenant.id, plane.key.id, plane.key.secret, "customer-7", "tag-7", "session-7", "gpt-4o", "claude"]
    assert not [name for name in names if name in body]
    assert set(re.findall(r"(\w+)=", body)) == {"worker", "surface", "outcome", "code", "le"}


async def test_readiness_tells_no_tenants_business(plane: Plane) -> None:
    await busy(plane)
    body = (await plane.send(ask("/health/ready"))).body.decode()
    assert plane.tenant.id not in body
    assert "unix://" not in body
