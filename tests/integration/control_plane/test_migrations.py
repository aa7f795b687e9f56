"""The database's history: from nothing to the models and back, by code and by command."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import asyncpg
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from control_plane.migrations import downgrade, upgrade
from control_plane.tables import METADATA, TABLES, is_ours

ROOT = Path(__file__).parents[3]


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    return {row["tablename"] for row in rows}


async def differences(url: str) -> list[object]:
    async def connect(*_: object, **__: object) -> object:
        return await asyncpg.connect(url)

    def compare(connection: Connection) -> list[object]:
        options = {"include_object": is_ours, "compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    async with engine.connect() as connection:
        found = await connection.run_sync(compare)
    await engine.dispose()
    return found


async def test_the_migrations_make_exactly_the_tables_of_the_models(bare_database_url: str) -> None:
    await upgrade(bare_database_url)
    assert await differences(bare_database_url) == []
    assert {table.__tablename__ for table in TABLES} <= await tables(bare_database_url)


async def test_every_step_can_be_taken_back_and_again(bare_database_url: str) -> None:
    await upgrade(bare_database_url)
    await downgrade(bare_database_url, "0001")
    assert "cost_events" not in await tables(bare_database_url)
    await downgrade(bare_database_url, "base")
    assert await tables(bare_database_url) == {"alembic_version"}
    await upgrade(bare_database_url)
    assert await differences(bare_database_url) == []
    await upgrade(bare_database_url)


async def test_partitions_exist_for_this_month_and_three_more(bare_database_url: str) -> None:
    await upgrade(bare_database_url)
    found = {name for name in await tables(bare_database_url) if name.startswith("cost_events_2")}
    assert len(found) == 4
    assert "cost_events_default" in await tables(bare_database_url)


def test_a_tenants_row_cannot_point_into_another_tenant() -> None:
    """Every foreign key between two tables that have an organisation carries it."""
    tenants = {name for name, table in METADATA.tables.items() if "org_id" in table.columns}
    for table in METADATA.tables.values():
        for key in table.foreign_key_constraints:
            if table.name in tenants and key.referred_table.name in tenants:
                assert "org_id" in key.column_keys, key.name


def alembic(environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_command_alembic_upgrades_the_database_that_the_environment_names(bare_database_url: str) -> None:
    environment = {**os.environ, "NULLSPEND_DATABASE_URL": bare_database_url}
    done = alembic(environment)
    assert done.returncode == 0, done.stderr
    assert "cost_events" in asyncio.run(tables(bare_database_url))
    del environment["NULLSPEND_DATABASE_URL"]
    lost = alembic(environment)
    assert lost.returncode != 0
    assert "NULLSPEND_DATABASE_URL must name the database" in lost.stderr
