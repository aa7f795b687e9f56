"""A subscription to one Redis channel, on a connection of its own, renewed whenever that breaks."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from shared.redis_connection import RedisConnection, RedisDown, RedisReplyError, open_connection
from shared.redis_url import RedisAddress

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0
_PING_EVERY_S: Final = 5.0
_PING_TIMEOUT_S: Final = 2.0


class _Listener(RedisConnection):
    """A connection on which messages arrive among the replies."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[bytes], None],
        *,
        on_lost: Callable[[RedisDown], None],
    ) -> None:
        super().__init__(loop, timeout_s=_PING_TIMEOUT_S, on_lost=on_lost)
        self._callback = callback

    def received(self, reply: Any) -> None:
        if type(reply) is list and reply and reply[0] == b"message":
            try:
                self._callback(reply[2])
            except Exception as error:  # noqa: BLE001 - one broken message must not end the subscription
                self._loop.call_exception_handler({"message": "a subscriber failed", "exception": error})
        else:
            super().received(reply)


class Subscription:
    def __init__(
        self,
        address: RedisAddress,
        channel: str,
        callback: Callable[[bytes], None],
        *,
        on_gap: Callable[[], None] | None = None,
    ) -> None:
        self._address = address
        self._channel = channel
        self._callback = callback
        self._on_gap = on_gap
        self._keeper: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self._broken = asyncio.Event()
        self._why = RedisDown("not subscribed yet")

    async def start(self, connect_timeout_s: float) -> None:
        """Returns when subscribed. Raises RedisDown if the first attempt fails; attempts go on until `close`."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep(connect_timeout_s))
        listening = asyncio.create_task(self._listening.wait())
        broken = asyncio.create_task(self._broken.wait())
        await asyncio.wait({listening, broken}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        broken.cancel()
        if not self._listening.is_set():
            raise self._why

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep(self, connect_timeout_s: float) -> None:
        pause_s = BACKOFF_FIRST_S
        while True:
            self._broken.clear()
            try:
                await self._listen(connect_timeout_s)
                pause_s = BACKOFF_FIRST_S
            except (RedisDown, RedisReplyError) as error:
                self._lost(RedisDown(str(error)))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, BACKOFF_MAX_S)

    async def _listen(self, connect_timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        connection = await open_connection(
            self._address, lambda: _Listener(loop, self._callback, on_lost=self._lost), connect_timeout_s
        )
        try:
            await connection.execute("SUBSCRIBE", self._channel)
            if self._listening.is_set() and self._on_gap is not None:
                self._on_gap()
            self._listening.set()
            while not self._broken.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PING_EVERY_S):
                        await self._broken.wait()
                if not self._broken.is_set():
                    connection.post("PING")  # silence must not pass for quiet
        finally:
            connection.close()

    def _lost(self, why: RedisDown) -> None:
        self._why = why
        self._broken.set()
