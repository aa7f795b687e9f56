"""Publishes the compiled price table: the table first, then the version that names it."""

import asyncio
import hashlib
import logging
from typing import Final

from sqlalchemy.dialects.postgresql import insert

from control_plane.kernel.db import Database
from control_plane.kernel.redis import RedisServer
from control_plane.ledger.models import PriceVersion
from control_plane.prices.book import CompiledBook, compile_book
from shared import redis_keys

_log = logging.getLogger("nullspend.prices")

_REPLACED_KEPT_S: Final = 30 * 24 * 3600


class PricePublisher:
    """Compiles the table once, off the event loop, and sees to it that Redis has it."""

    def __init__(self, database: Database, redis: RedisServer) -> None:
        self._database = database
        self._redis = redis
        self._book: CompiledBook | None = None

    async def ensure(self) -> str:
        """The version in force. Writes only what is missing: Redis may have been emptied since."""
        if self._book is None:
            self._book = await asyncio.to_thread(compile_book)
        book = self._book
        name = redis_keys.prices(book.version)
        current, present = await self._redis.pipeline(
            [["GET", redis_keys.PRICES_CURRENT], ["EXISTS", name]],
        )
        if current == book.version.encode() and present:
            return book.version
        await self._redis.execute(["SET", name, book.payload])
        await self._redis.execute(["SET", redis_keys.PRICES_CURRENT, book.version])
        if current is not None and current != book.version.encode():
            await self._redis.execute(["EXPIRE", redis_keys.prices(current.decode()), _REPLACED_KEPT_S])
        await self._note(book)
        _log.info("price table %s is in force", book.version)
        return book.version

    async def _note(self, book: CompiledBook) -> None:
        row = {
            "version": book.version,
            "source": "genai-prices",
            "digest": hashlib.sha256(book.payload).hexdigest(),
        }
        async with self._database.transaction() as session:
            await session.execute(insert(PriceVersion).values(row).on_conflict_do_nothing())
