"""The Redis client of the hot path: one connection, shared by all calls of a worker and replaced when it breaks.

It never repeats a command and never waits for a connection: while Redis is away every command fails at once, and the
caller decides what that means.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from shared.redis_connection import (
    Part,
    RedisConnection,
    RedisDown,
    RedisReplyError,
    encode_command,
    failed,
    open_connection,
)
from shared.redis_subscription import BACKOFF_FIRST_S, BACKOFF_MAX_S, Subscription
from shared.redis_url import parse_redis_url

__all__ = ["Part", "RedisClient", "RedisConnection", "RedisDown", "RedisReplyError", "encode_command"]

Connected = Callable[[RedisConnection], Awaitable[None]]


class RedisClient:
    """Keeps one connection, and replaces it when it breaks (50 ms to 1 s between attempts)."""

    execute: Callable[..., "asyncio.Future[Any]"]
    """`execute(*parts)`: the reply as a future. RedisReplyError and RedisDown are raised when it is awaited."""
    post: Callable[..., None]
    """`post(*parts)`: a command whose reply nobody needs. Raises RedisDown."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float | None = 1.0,
        connect_timeout_s: float = 1.0,
        on_connect: tuple[Connected, ...] = (),
    ) -> None:
        self.address = parse_redis_url(url)
        self.connected = False
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._on_connect = list(on_connect)
        self._connection: RedisConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._broken = asyncio.Event()
        self._ready = asyncio.Event()
        self._why = RedisDown("not connected to Redis yet")
        self._subscriptions: list[Subscription] = []
        self.execute, self.post = self._execute_down, self._post_down

    def on_connect(self, hook: Connected) -> None:
        """Run `hook(connection)` on every new connection before commands are let through (SCRIPT LOAD …)."""
        self._on_connect.append(hook)

    async def connect(self, wait_s: float = 5.0) -> None:
        """Connect and stay connected until `close`. Raises RedisDown if that takes longer; attempts go on."""
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep())
        try:
            async with asyncio.timeout(wait_s):
                await self._ready.wait()
        except TimeoutError:
            raise self._why from None

    @property
    def errors_unheard(self) -> int:
        """Error replies to posted commands, on this connection."""
        return self._connection.errors_unheard if self._connection is not None else 0

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.close()
        if self._connection is not None:
            self._connection.close()

    async def subscribe(
        self, channel: str, callback: Callable[[bytes], None], on_gap: Callable[[], None] | None = None
    ) -> None:
        """Every message of a channel from now until `close`, on a connection of its own that is renewed by itself.

        Messages sent while it was away are lost: `on_gap` is called when it is back. Raises RedisDown if the first
        attempt fails; attempts go on.
        """
        subscription = Subscription(self.address, channel, callback, on_gap=on_gap)
        self._subscriptions.append(subscription)
        await subscription.start(self._connect_timeout_s)

    async def _keep(self) -> None:
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                await self._attempt()
            except (RedisDown, RedisReplyError, OSError, TimeoutError) as error:
                self._why = error if isinstance(error, RedisDown) else RedisDown(f"Redis refused us: {error}")
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, BACKOFF_MAX_S)
                continue
            pause_s = BACKOFF_FIRST_S
            await self._broken.wait()

    async def _attempt(self) -> None:
        self._broken.clear()
        loop = asyncio.get_running_loop()
        connection = await open_connection(
            self.address,
            lambda: RedisConnection(loop, timeout_s=self._timeout_s, on_lost=self._lost),
            self._connect_timeout_s,
        )
        self._connection = connection
        try:
            for hook in self._on_connect:
                await hook(connection)
        except BaseException:
            connection.close()
            raise
        if not self._broken.is_set():
            self.execute, self.post = connection.execute, connection.post
            self.connected = True
            self._ready.set()

    def _lost(self, why: RedisDown) -> None:
        self._why = why
        self.connected = False
        self.execute, self.post = self._execute_down, self._post_down
        self._ready.clear()
        self._broken.set()

    def _execute_down(self, *parts: Part) -> "asyncio.Future[Any]":  # noqa: ARG002 - as `execute`
        return failed(asyncio.get_running_loop().create_future(), RedisDown(str(self._why)))

    def _post_down(self, *parts: Part) -> None:  # noqa: ARG002 - as `post`
        raise RedisDown(str(self._why))
