"""Alembic's entry: one async connection, one transaction, one migrating process at a time."""

import asyncio
import os
from typing import Any

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from control_plane.kernel.db import normalised
from control_plane.tables import METADATA, is_ours

_LOCK = 0x6E75_6C6C  # any number that nobody else locks


def _url() -> str:
    url = context.config.attributes.get("database_url") or os.environ.get("NULLSPEND_DATABASE_URL")
    if not url:
        raise SystemExit("NULLSPEND_DATABASE_URL must name the database to migrate (postgresql://…)")
    return normalised(url)


def _migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA, include_object=is_ours)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        context.run_migrations()


async def _run() -> None:
    dsn = _url()

    async def connect(*_: object, **__: object) -> "asyncpg.Connection[Any]":
        return await asyncpg.connect(dsn)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)
        await connection.commit()
    await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations run against a database, not into a file")
asyncio.run(_run())
