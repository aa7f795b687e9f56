"""An organisation of its own for every test, on real servers."""

from collections.abc import AsyncIterator

import pytest

from control_plane.kernel.context import Context
from control_plane.settings import Settings
from control_plane.wiring import connected
from tests.integration.control_plane.support import Installation, install, make_ready


@pytest.fixture
async def context(database_url: str, redis_url: str) -> AsyncIterator[Context]:
    settings = Settings(database_url=database_url, redis_url=redis_url, database_pool=4, consumer="test")
    async with connected(settings) as made:
        yield made


@pytest.fixture
async def org(context: Context) -> AsyncIterator[Installation]:
    """Without epochs: nothing is admitted, but everything else works."""
    made = await install(context)
    yield made
    for client in made.clients:
        await client.aclose()


@pytest.fixture
async def ready(org: Installation) -> Installation:
    """With a ledger that admits."""
    await make_ready(org)
    return org
