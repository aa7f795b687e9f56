"""Waiting that ends: a look is repeated until it is good, and says what it saw when it never was."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

_LOOK_AGAIN_S: Final = 0.05


async def eventually(look: Callable[[], Awaitable[T]], good: Callable[[T], bool], *, within_s: float) -> T:
    """The first look that is good. Fails with the last one when time is up."""
    deadline = time.monotonic() + within_s
    while True:
        seen = await look()
        if good(seen):
            return seen
        assert time.monotonic() < deadline, f"not within {within_s} s; last seen: {seen!r}"
        await asyncio.sleep(_LOOK_AGAIN_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
