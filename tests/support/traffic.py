"""Parallel callers that go on whatever happens to the product, and remember what they were told of each call."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx

from tests.support.scripted import say

_TIMEOUT_S: Final = 60.0
_PAUSE_S: Final = 0.05
"""Before a caller that was refused or cut off calls again."""
LIMIT_TOKENS: Final = 400


@dataclass(slots=True)
class Told:
    """One call as its caller knows it. `complete`: answered with 200, to the end of the body."""

    name: str
    status: int | None = None
    complete: bool = False
    code: str | None = None
    """Of a refusal by the product."""
    error: str | None = None
    """What broke the connection."""


@dataclass(slots=True)
class Traffic:
    """Calls of every dialect, half of them streams that take a while. Each has a name that goes wherever it goes."""

    url: str
    key: str
    customer: str
    told: list[Told] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _callers: list["asyncio.Task[None]"] = field(default_factory=list)

    def start(self, callers: int) -> None:
        self._callers = [asyncio.create_task(self._caller()) for _ in range(callers)]

    async def stop(self) -> None:
        """The calls that were begun end as they end."""
        self._stop.set()
        await asyncio.gather(*self._callers)

    @property
    def completed(self) -> int:
        return sum(told.complete for told in self.told)

    async def reach(self, completed: int, *, within_s: float) -> Self:
        """Waits for so many complete calls."""
        async with asyncio.timeout(within_s):
            while self.completed < completed:  # noqa: ASYNC110 - what is counted has no event
                await asyncio.sleep(0.01)
        return self

    async def _caller(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=_TIMEOUT_S, trust_env=False) as client:
            while not self._stop.is_set():
                told = await self._call(client, next(self._numbers))
                self.told.append(told)
                if not told.complete:
                    await asyncio.sleep(_PAUSE_S)

    async def _call(self, client: httpx.AsyncClient, number: int) -> Told:
        told = Told(f"{self.customer}/{number}")
        path, body = _request(number)
        headers = {
            "X-NullSpend-Key": self.key,
            "X-NullSpend-Customer": self.customer,
            "X-NullSpend-Session": told.name,
            "x-request-tag": told.name,
            "anthropic-version": "2023-06-01",
        }
        try:
            async with client.stream("POST", path, json=body, headers=headers) as reply:
                told.status = reply.status_code
                told.code = reply.headers.get("x-nullspend-error")
                await reply.aread()
                told.complete = reply.status_code == 200
        except httpx.TransportError as error:
            told.error = repr(error)
        return told


def _request(number: int) -> tuple[str, dict[str, Any]]:
    """Every call has a usage of its own, so that no two wrong amounts can cancel out."""
    stream = number % 2 == 1
    wait = {"delay_ms": 30} if stream else {"first_delay_ms": 120}
    text = say(
        **{"in": 1000 + number, "out": 100 + number % 211, "cached": number % 97}, chunks=6, text="abcdef", **wait
    )
    messages = [{"role": "user", "content": text}]
    match number % 3:
        case 0:
            body = {"model": "gpt-4o", "max_tokens": LIMIT_TOKENS, "stream": stream, "messages": messages}
            return "/v1/chat/completions", body
        case 1:
            model = "claude-sonnet-4-6"
            return "/v1/messages", {
                "model": model,
                "max_tokens": LIMIT_TOKENS,
                "stream": stream,
                "messages": messages,
            }
        case _:
            verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
            contents = [{"role": "user", "parts": [{"text": text}]}]
            config = {"maxOutputTokens": LIMIT_TOKENS}
            return f"/v1beta/models/gemini-2.5-pro:{verb}", {"contents": contents, "generationConfig": config}
