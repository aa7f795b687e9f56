"""What tests of the scripted provider share: scripts as requests carry them, and looks at what was served."""

import asyncio
import json
from typing import Any

import httpx2

from deploy.demo.provider import ScriptedProvider
from deploy.demo.script import TokenUsage
from deploy.demo.served import Served

USAGE = {"in": 1000, "out": 500, "cached": 200, "reasoning": 100}
TOLD = TokenUsage(input=1000, output=500, cached=200, reasoning=100)


def say(**script: object) -> str:
    """A user's text that scripts the reply to it."""
    return f"Hello. #script: {json.dumps(script)}"


def body(**script: Any) -> dict[str, object]:
    """An OpenAI request; `stream` belongs to the request, the rest is the script."""
    stream = script.pop("stream", False)
    return {"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": say(**script)}]}


def only(provider: ScriptedProvider) -> Served:
    stats = provider.stats()
    assert (stats.requests, stats.in_flight, len(stats.served)) == (1, 0, 1)
    return stats.served[0]


async def read_all(
    client: httpx2.AsyncClient, script: dict[str, object]
) -> tuple[int | None, bytes, httpx2.TransportError | None]:
    """The status, every byte that arrived, and how it ended early."""
    status, received = None, b""
    try:
        async with client.stream("POST", "/v1/chat/completions", json=script) as reply:
            status = reply.status_code
            async for part in reply.aiter_raw():
                received += part
    except httpx2.TransportError as error:
        return status, received, error
    return status, received, None


async def settled(provider: ScriptedProvider) -> None:
    async with asyncio.timeout(5):
        while provider.stats().in_flight:  # noqa: ASYNC110  # asked as another process would have to
            await asyncio.sleep(0.005)
