"""A process put together: the only place that knows every slice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from control_plane.kernel.caller import Credential
from control_plane.kernel.context import Context
from control_plane.kernel.db import Database
from control_plane.kernel.redis import RedisServer
from control_plane.keys import queries as keys
from control_plane.keys.published import grants_of
from control_plane.ledger.publish import Publisher
from control_plane.settings import Settings
from shared.ledger.redis import RedisLedger


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Context]:
    """The stores and doors of one process. Nothing is contacted before it is used."""
    database = Database(settings.database_url, pool=settings.database_pool)
    redis = RedisServer(settings.redis_url)
    publisher = Publisher(database, redis, grants_of, timeout_s=settings.publish_timeout_s)

    async def credential_of(secret_sha256: bytes) -> Credential | None:
        async with database.read_only() as session:
            return await keys.credential_of(session, secret_sha256)

    try:
        yield Context(
            settings=settings,
            database=database,
            redis=redis,
            ledger=RedisLedger(redis.execute),
            credential_of=credential_of,
            publish=publisher.publish,
            key_exists=keys.exists,
            key_names=keys.names,
            grants_of=grants_of,
        )
    finally:
        await redis.close()
        await database.close()
