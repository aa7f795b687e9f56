"""Redis for the control plane: one pooled client whose replies are raw, and its library's errors turned into ours."""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final, Self, TypeVar

import redis.exceptions as library
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shared.ledger.redis import Part

T = TypeVar("T")

_TIMEOUT_S: Final = 10.0
"""Longer than any blocking read."""


class RedisUnavailable(Exception):
    """Redis cannot be reached, is loading, or refuses writes: nothing may be concluded, worth retrying."""


class RedisRefused(Exception):
    """Redis answered with an error: the command is wrong, or a key holds something else than it should."""


@dataclass(frozen=True, slots=True)
class Lua:
    """A script of the control plane. Sent with its source: these run rarely."""

    source: str

    @classmethod
    def load(cls, package: str, name: str) -> Self:
        return cls((files(package) / "lua" / f"{name}.lua").read_text(encoding="utf-8"))

    def command(self, keys: Sequence[str], args: Sequence[Part]) -> list[Part]:
        return ["EVAL", self.source, len(keys), *keys, *args]


class RedisServer:
    """Commands in, raw RESP2 replies out (integers, bytes, lists, None)."""

    def __init__(self, url: str) -> None:
        client: Redis = Redis.from_url(
            url,
            protocol=2,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=2,
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[library.ConnectionError],
        )
        client.response_callbacks.clear()
        self._client = client

    async def close(self) -> None:
        await self._client.aclose()

    async def execute(self, parts: Sequence[Part]) -> Any:
        """One command. Raises RedisUnavailable or RedisRefused."""
        try:
            return await self._client.execute_command(*parts)  # type: ignore[no-untyped-call]
        except (TimeoutError, library.RedisError, OSError) as error:
            raise _translated(error) from error

    async def pipeline(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Many commands in one go, in order; the first error is raised after all of them ran."""
        return _raised(await self._batch(commands, atomic=False))

    async def pipeline_each(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """As `pipeline`, but what Redis refused comes back as a RedisRefused in its place."""
        return await self._batch(commands, atomic=False)

    async def atomically(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        """Many commands that nobody can get between (MULTI/EXEC)."""
        return _raised(await self._batch(commands, atomic=True))

    async def _batch(self, commands: Sequence[Sequence[Part]], *, atomic: bool) -> list[Any]:
        if not commands:
            return []
        try:
            async with self._client.pipeline(transaction=atomic) as batch:
                for parts in commands:
                    batch.execute_command(*parts)
                replies = await batch.execute(raise_on_error=False)
        except (TimeoutError, library.RedisError, OSError) as error:
            raise _translated(error) from error
        return [_translated(reply) if isinstance(reply, Exception) else reply for reply in replies]


def _raised(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def within(seconds: float, answer: Awaitable[T]) -> T:
    """An answer of Redis, or RedisUnavailable when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise RedisUnavailable("Redis did not answer in time") from error


def _translated(error: Exception) -> Exception:
    outages = (library.ConnectionError, library.TimeoutError, library.BusyLoadingError, library.ReadOnlyError)
    if isinstance(error, (*outages, OSError, asyncio.TimeoutError)):
        return RedisUnavailable(f"Redis cannot be reached: {error}")
    text = str(error)
    if isinstance(error, library.NoScriptError):
        return RedisRefused(f"NOSCRIPT {text}")  # the ledger's client reads this word
    if isinstance(error, library.OutOfMemoryError) or text.startswith(("MISCONF", "OOM", "MASTERDOWN", "CLUSTERDOWN")):
        return RedisUnavailable(f"Redis refuses writes: {text}")
    return RedisRefused(text)
