"""An organisation of its own for every test, on real servers. All tests share one event loop, and so their engine."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from control_plane.kernel.context import Context
from control_plane.settings import Settings
from control_plane.wiring import connected
from deploy.embedded import EmbeddedStack
from tests.integration.control_plane.support import Installation, install, make_ready


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        ours = "control_plane" in item.path.parts or "contract" in item.path.parts
        if ours and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def context(database_url: str, stack: EmbeddedStack) -> AsyncIterator[Context]:
    settings = Settings(database_url=database_url, redis_url=stack.redis_url, database_pool=6, consumer="test")
    async with connected(settings) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def org(context: Context, redis_url: str) -> AsyncIterator[Installation]:
    """Without epochs: nothing is admitted, but everything else works."""
    made = await install(context)
    yield made
    for client in made.clients:
        await client.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def alone(context: Context, empty_database_url: str, redis_url: str) -> AsyncIterator[Installation]:
    """The only organisation there is, with a ledger that admits: for what looks at everything."""
    made = await install(context)
    await make_ready(made)
    yield made
    for client in made.clients:
        await client.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def ready(org: Installation) -> Installation:
    """With a ledger that admits."""
    await make_ready(org)
    return org
