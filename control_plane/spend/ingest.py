"""From the event streams into PostgreSQL: read, book in one transaction, acknowledge after the commit.

A batch that cannot be stored is halved until the entry at fault stands alone; that one is parked, visibly, and only
then acknowledged. While PostgreSQL or Redis is away the batch is kept and tried again: nothing is lost or skipped.
"""

import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.dialects.postgresql import insert

from control_plane.kernel.db import Database, RowRefused
from control_plane.kernel.redis import RedisRefused, RedisServer
from control_plane.spend import booking
from control_plane.spend.models import ParkedEntry
from control_plane.spend.rows import Statement, read_statement
from control_plane.spend.stream import Entry, Reader, Trimmer

_log = logging.getLogger("nullspend.ingest")

_CLAIM_EVERY_S: Final = 15.0
_TRIM_EVERY_S: Final = 5.0
_ERROR_MAX: Final = 1000


class Ingest:
    """The consumer of one process. Each `step` does what there is to do and returns how many entries it finished."""

    def __init__(
        self, database: Database, redis: RedisServer, *, consumer: str, batch: int = 500, keep_s: float = 60.0
    ) -> None:
        self._database = database
        self._reader = Reader(redis, consumer, count=batch)
        self._trimmer = Trimmer(redis, keep_s=keep_s)
        self._batch = batch
        self._waiting: list[Entry] = []
        self._joined = False
        self._resuming = True
        self._claim_at = 0.0
        self._trim_at = 0.0
        self.booked = 0
        self.parked = 0

    async def step(self, *, block_ms: int | None = None) -> int:
        """Raises DatabaseUnavailable or RedisUnavailable; what was read is then kept for the next step."""
        if not self._joined:
            await self._reader.join()
            self._joined = self._resuming = True
        if not self._waiting:
            try:
                self._waiting = await self._next(block_ms)
            except RedisRefused as error:
                if "NOGROUP" not in str(error):
                    raise
                self._joined = False  # Redis was emptied: the groups are made anew
                return 0
        finished = 0
        while self._waiting:
            batch = self._waiting[: self._batch]
            await self.book(batch)
            await self._reader.acknowledge(batch)
            del self._waiting[: len(batch)]
            finished += len(batch)
        await self._trim()
        return finished

    async def drain(self) -> int:
        """Steps until there is nothing left to read."""
        total = 0
        while finished := await self.step():
            total += finished
        return total

    async def book(self, entries: Sequence[Entry]) -> None:
        """Books entries in their order, and parks those that cannot be booked. Repetitions change nothing."""
        statements: list[Statement] = []
        sources: list[Entry] = []
        recorded_at = datetime.now(UTC)
        for entry in entries:
            try:
                statements.append(read_statement(entry.mapping(), recorded_at))
                sources.append(entry)
            except ValueError as error:
                reason = str(error) if entry.fields else "the entry was removed from the stream before it was read"
                await self._park(entry, reason)
        if statements:
            await self._book(statements, sources)

    async def _book(self, statements: Sequence[Statement], sources: Sequence[Entry]) -> None:
        try:
            async with self._database.transaction() as session:
                await booking.book(session, statements)
        except RowRefused as error:
            if len(statements) == 1:
                await self._park(sources[0], str(error))
                return
            half = len(statements) // 2
            await self._book(statements[:half], sources[:half])
            await self._book(statements[half:], sources[half:])
        else:
            self.booked += len(statements)

    async def _park(self, entry: Entry, reason: str) -> None:
        async with self._database.transaction() as session:
            row = {
                "stream": entry.stream,
                "entry_id": entry.id,
                "fields": list(entry.fields),
                "error": reason.replace("\0", "")[:_ERROR_MAX],
            }
            await session.execute(insert(ParkedEntry).values(row).on_conflict_do_nothing())
        self.parked += 1
        _log.error("entry %s of %s was parked: %s", entry.id, entry.stream, reason)

    async def _next(self, block_ms: int | None) -> list[Entry]:
        if self._resuming:
            own = await self._reader.own()
            if own:
                return own
            self._resuming = False
        now = time.monotonic()
        if now >= self._claim_at:
            self._claim_at = now + _CLAIM_EVERY_S
            abandoned = await self._reader.abandoned()
            if abandoned:
                return abandoned
        return await self._reader.new(block_ms=block_ms)

    async def _trim(self) -> None:
        now = time.monotonic()
        if now >= self._trim_at:
            self._trim_at = now + _TRIM_EVERY_S
            await self._trimmer.trim()
