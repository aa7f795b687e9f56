"""Real servers for every suite: one embedded stack a session, a fresh database a module, an empty Redis a test."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import settings
from redis import Redis

from control_plane.migrations import upgrade
from deploy.embedded import EmbeddedStack

settings.register_profile("nullspend", deadline=None)  # a busy machine is no failure
settings.load_profile("nullspend")

_TEMPLATE = "nullspend_template"
_numbers = itertools.count()


def _named(url: str, database: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/{database}?{parts.query}"


def _execute(url: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """PostgreSQL and Valkey for the whole session."""
    place: Path = tmp_path_factory.mktemp("stack")
    with EmbeddedStack(place) as started:
        yield started


@pytest.fixture(scope="session")
def template_database(stack: EmbeddedStack) -> str:
    """The name of a migrated database that others are copied from."""
    _execute(stack.database_url, f"CREATE DATABASE {_TEMPLATE}")
    asyncio.run(upgrade(_named(stack.database_url, _TEMPLATE)))
    return _TEMPLATE


def _copy(stack: EmbeddedStack, template: str) -> str:
    name = f"nullspend_test_{next(_numbers)}"
    _execute(stack.database_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    return _named(stack.database_url, name)


@pytest.fixture(scope="module")
def database_url(stack: EmbeddedStack, template_database: str) -> str:
    """A migrated database of the module's own, empty but for what its tests leave behind."""
    return _copy(stack, template_database)


@pytest.fixture
def empty_database_url(database_url: str) -> str:
    """The module's database without a row, for tests that look at all of it."""
    _execute(database_url, "TRUNCATE users, ingest_parked, price_versions CASCADE")
    return database_url


@pytest.fixture
def bare_database_url(stack: EmbeddedStack) -> str:
    """A database without any table."""
    return _copy(stack, "template1")


@pytest.fixture
def redis_url(stack: EmbeddedStack) -> str:
    """An empty Redis."""
    with Redis.from_url(stack.redis_url) as redis:
        redis.flushall()
    return stack.redis_url
