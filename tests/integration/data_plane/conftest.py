"""A plane for every test: a worker of its own on the loop that production uses, a shared Valkey emptied before."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from control_plane.prices.book import CompiledBook, compile_book
from shared.redis_wire import RedisClient
from tests.integration.data_plane.harness import Plane, answer_as_asked, connected, publish_prices, working
from tests.integration.data_plane.tenant import Tenant
from tests.integration.data_plane.upstream import Upstream
from tests.valkey import valkey_server

NewPlane = Callable[..., Awaitable[Plane]]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    both = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return both if item.path.name == "test_exactness.py" else {"uvloop": both["uvloop"]}


@pytest.fixture(scope="session")
def prices() -> CompiledBook:
    return compile_book()


@pytest.fixture(scope="session")
def valkey_path() -> Iterator[str]:
    with valkey_server() as path:
        yield path


@pytest.fixture
async def redis(valkey_path: str, prices: CompiledBook) -> AsyncIterator[RedisClient]:
    """An empty ledger with the prices published."""
    async with connected(f"unix://{valkey_path}") as client:
        await client.execute("FLUSHALL")
        await publish_prices(client, prices)
        yield client


@pytest.fixture
async def tenant(redis: RedisClient) -> Tenant:
    tenant = Tenant(redis)
    await tenant.open()
    return tenant


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(answer_as_asked) as upstream:
        yield upstream


@pytest.fixture
async def new_plane(valkey_path: str, tenant: Tenant, upstream: Upstream) -> AsyncIterator[NewPlane]:
    """Starts a worker with other settings; all of them serve the same organisation."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Plane:
            url = f"unix://{valkey_path}"
            worker = await stack.enter_async_context(working(url, upstream.url, **settings))
            return Plane(worker, tenant, await tenant.key(), upstream, url)

        yield start


@pytest.fixture
async def plane(new_plane: NewPlane) -> Plane:
    return await new_plane()
