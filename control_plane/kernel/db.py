"""PostgreSQL: the engine, one transaction per request or job, and library errors turned into two of ours.

Only this module commits.

DatabaseUnavailable   nothing can be said now; the same work may succeed later
RowRefused            the data itself cannot be stored; repeating it will not help
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import ARRAY, BigInteger, MetaData, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase

Session = AsyncSession

_NAMES: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
_TRY_LATER: Final = ("08", "40", "53", "55", "57", "58", "XX")
"""SQLSTATE classes: connection, rollback, resources, not in state, operator, system, internal."""
_BAD_DATA: Final = ("22", "23")
_NOT_MIGRATED: Final = ("42P01", "42703", "3F000", "42883")
"""An unknown table, column, schema or function."""


class DatabaseUnavailable(Exception):
    """PostgreSQL cannot be reached, is starting, or gave the transaction up: worth retrying."""


class RowRefused(Exception):
    """A value or a constraint was violated. `constraint` is its name, empty when PostgreSQL named none."""

    def __init__(self, message: str, constraint: str) -> None:
        super().__init__(message)
        self.constraint = constraint


class Base(DeclarativeBase):
    """All tables. A string is text, an integer bigint, a time a timestamptz."""

    metadata = MetaData(naming_convention=_NAMES)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it once
        str: Text(),
        int: BigInteger(),
        UUID: Uuid(),
        datetime: TIMESTAMP(timezone=True),
        list[str]: ARRAY(Text()),
        dict[str, str]: JSONB(),
        dict[str, int]: JSONB(),
        list[dict[str, str]]: JSONB(),
        dict[str, Any]: JSONB(),
    }


class Database:
    """The engine of one process. Made inside the event loop that uses it."""

    def __init__(self, url: str, *, pool: int = 10) -> None:
        dsn = normalised(url)

        async def connect(*_: object, **__: object) -> "asyncpg.Connection[Any]":
            return await asyncpg.connect(dsn, timeout=5, command_timeout=60)

        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect,
            pool_size=pool,
            max_overflow=pool,
            pool_timeout=5,
            pool_pre_ping=True,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
        )

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """One transaction: committed at the end of the block, rolled back when it raises."""
        async with self._session(self._engine) as session:
            yield session
            await session.commit()

    @asynccontextmanager
    async def read_only(self) -> AsyncIterator[Session]:
        """A transaction that cannot write."""
        async with self._session(self._engine.execution_options(postgresql_readonly=True)) as session:
            yield session

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Session]:
        """A read-only transaction whose statements all see the database as the first of them did."""
        engine = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with self._session(engine) as session:
            yield session

    @asynccontextmanager
    async def _session(self, engine: Any) -> AsyncIterator[Session]:
        try:
            async with AsyncSession(engine, expire_on_commit=False) as session:
                yield session
        except (DBAPIError, asyncpg.PostgresError) as error:
            raise _translated(error) from error
        except (OSError, asyncpg.InterfaceError, PoolTimeoutError) as error:
            raise DatabaseUnavailable(f"PostgreSQL cannot be reached: {error}") from error


def normalised(url: str) -> str:
    """The URL as asyncpg reads it: SQLAlchemy's driver suffix is allowed and dropped."""
    return re.sub(r"^postgres(?:ql)?(?:\+asyncpg)?://", "postgresql://", url)


def _translated(error: DBAPIError | asyncpg.PostgresError) -> Exception:
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    cause = getattr(original, "__cause__", None) or original
    state = getattr(original, "sqlstate", None) or ""
    if state.startswith(_BAD_DATA) or isinstance(cause, ValueError):  # the driver could not even encode the value
        return RowRefused(str(original), getattr(cause, "constraint_name", None) or "")
    if not state or state.startswith(_TRY_LATER):
        return DatabaseUnavailable(f"PostgreSQL gave up: {original}")
    if state in _NOT_MIGRATED:
        return DatabaseUnavailable(f"the database lacks this version's tables, run `alembic upgrade head`: {original}")
    return error
