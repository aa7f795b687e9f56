"""What must still reach the ledger: settles and releases, sent without anyone waiting for them.

A verb stays here until the ledger answered it. All of them are idempotent, so one whose answer was lost is simply
sent again when the connection is back; nothing is dropped.
"""

import asyncio
import logging
from typing import Final

from shared.ledger import Conflict, Release, Settle, Terminal
from shared.ledger.redis import RedisLedger
from shared.redis_wire import RedisDown, RedisReplyError

_log = logging.getLogger("nullspend.journal")

_RETRY_FIRST_S: Final = 0.05
_RETRY_MAX_S: Final = 1.0

Entry = Settle | Release


class Journal:
    """One per worker. `submit` never raises and never waits; `flushed` does."""

    def __init__(self, ledger: RedisLedger) -> None:
        self._ledger = ledger
        self._pending: set[asyncio.Task[None]] = set()
        self.retried = 0
        self.conflicts = 0
        """Verbs that met another end of the same call: the ledger kept the first."""

    @property
    def depth(self) -> int:
        """Verbs that the ledger has not answered yet."""
        return len(self._pending)

    def submit(self, entry: Entry) -> None:
        task = asyncio.get_running_loop().create_task(self._write(entry))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def flushed(self, timeout_s: float) -> bool:
        """Waits until everything was answered; False when time ran out first."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=timeout_s)
        return not self._pending

    def close(self) -> None:
        """Gives up what was not answered."""
        for task in self._pending:
            task.cancel()

    async def _write(self, entry: Entry) -> None:
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                reply = await (self._ledger.settle(entry) if isinstance(entry, Settle) else self._ledger.release(entry))
            except (RedisDown, RedisReplyError) as error:
                self.retried += 1
                if isinstance(error, RedisReplyError):
                    _log.warning("the ledger refused an entry of call %s and is asked again: %s", entry.id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _RETRY_MAX_S)
                continue
            if isinstance(reply, Conflict | Terminal):
                self.conflicts += 1
                _log.error("call %s ended twice: the ledger answered %r", entry.id, reply)
            return
