"""The background work of a real process: it starts from nothing, survives outages, and stops when told."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from control_plane import __main__ as server
from control_plane import worker
from control_plane.kernel.context import Context
from control_plane.migrations import upgrade
from control_plane.settings import Settings
from control_plane.wiring import connected
from control_plane.worker import Loop, Worker
from deploy.embedded import EmbeddedStack
from shared import redis_keys
from shared.ledger import Ok
from tests.integration.control_plane.support import Installation, install, scope_of


async def eventually(check: Callable[[], Awaitable[bool]], what: str, *, within_s: float = 20.0) -> None:
    deadline = asyncio.get_running_loop().time() + within_s
    while not await check():
        assert asyncio.get_running_loop().time() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def recorded(org: Installation, call_id: str) -> bool:
    return (await org.admin.get(f"/api/cost-events/{call_id}")).status_code == 200


async def test_a_worker_makes_an_empty_redis_admit_records_what_it_admits_and_lapses_what_dies(
    org: Installation,
) -> None:
    quick = org.context.settings.model_copy(update={"sweep_every_s": 0.1})
    async with connected(quick) as context, Worker(context) as work:

        async def enforcing() -> bool:
            return (await org.client(None).get("/health/ready")).json()["enforcing"] is True

        await eventually(enforcing, "every shard has its epoch and prices are published")
        scope = scope_of(await org.budget(1_000))
        call = await org.spend(300, [scope])
        await eventually(lambda: recorded(org, call.id), "the settled call is a row")
        dead = org.event()
        assert isinstance(await org.reserve(dead, 200, [scope], lease_ms=100), Ok)
        await eventually(lambda: recorded(org, dead.id), "the hold lapsed and was charged")
        assert (await org.admin.get(f"/api/cost-events/{dead.id}")).json()["data"]["costMicrodollars"] == 200
        assert work.failing() == []


async def test_a_worker_outlives_a_redis_and_a_postgresql_that_go_and_come(tmp_path: Path) -> None:
    first = EmbeddedStack(tmp_path / "data")
    first.start()
    settings = Settings(database_url=first.database_url, redis_url=first.redis_url, consumer="test")
    await upgrade(first.database_url)
    async with connected(settings) as context, Worker(context) as work:
        org = await install(context)

        async def works() -> bool:
            ready = await org.client(None).get("/health/ready")
            return ready.status_code == 200 and work.failing() == []

        await eventually(works, "everything is up")
        scope = scope_of(await org.budget(1_000))
        before = await org.spend(10, [scope])
        await asyncio.to_thread(first.stop)

        async def waiting() -> bool:
            return {"ingest", "publishing"} <= set(work.failing())

        await eventually(waiting, "the loops notice")
        assert (await org.client(None).get("/api/health")).status_code == 503
        assert (await org.admin.get("/api/keys")).status_code == 503
        second = EmbeddedStack(tmp_path / "data")
        await asyncio.to_thread(second.start)
        try:
            await eventually(works, "the same worker goes on")
            after = await org.spend(20, [scope])
            for call in (before, after):
                await eventually(lambda call=call: recorded(org, call.id), "nothing was lost")  # type: ignore[misc]
        finally:
            for client in org.clients:
                await client.aclose()
            await asyncio.to_thread(second.stop)


async def test_a_loop_that_breaks_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[int] = []

    async def turn() -> None:
        turns.append(1)
        if len(turns) < 3:
            raise ValueError("a defect")

    loop = Loop("testing", turn, 0.01)
    task = asyncio.create_task(loop.run())

    async def recovered() -> bool:
        return len(turns) > 4

    await eventually(recovered, "it went on")
    assert not loop.failing
    assert "testing failed" in caplog.text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def start(module: str, context: Context, **environment: str) -> asyncio.subprocess.Process:
    settings = context.settings
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-m",
        module,
        env={
            **os.environ,
            "NULLSPEND_DATABASE_URL": settings.database_url,
            "NULLSPEND_REDIS_URL": settings.redis_url,
            **environment,
        },
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_process_serves_works_and_stops_cleanly_on_sigterm(org: Installation) -> None:
    port = free_port()
    process = await start("control_plane", org.context, NULLSPEND_CONTROL_PORT=str(port))
    headers = {"X-NullSpend-Key": org.owner.admin_key}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/health/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(ready, "it is ready", within_s=60)
        body = {"entityType": "customer", "entityId": "acme", "maxBudgetMicrodollars": 5}
        assert (await client.post("/api/budgets", json=body)).status_code == 201
        assert (await client.get("/api/health?verbose=1")).json()["components"]["worker"] == "ok"
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log, log.decode()


async def test_the_worker_alone_stops_cleanly_too(org: Installation) -> None:
    process = await start("control_plane.worker", org.context)

    async def rebuilt() -> bool:
        return bool(await org.context.redis.execute(["EXISTS", redis_keys.epoch(redis_keys.shard_tag(63))]))

    await eventually(rebuilt, "it works", within_s=60)
    process.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log, log.decode()


@pytest.mark.parametrize("module", [server, worker])
def test_a_process_without_its_settings_says_which(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    monkeypatch.setenv("NULLSPEND_DATABASE_URL", "mysql://user:hush@host/db")
    monkeypatch.setenv("NULLSPEND_REDIS_URL", "")
    with pytest.raises(SystemExit) as ended:
        module.main()
    message = str(ended.value)
    assert "NULLSPEND_DATABASE_URL: must be a PostgreSQL URL" in message
    assert "NULLSPEND_REDIS_URL: " in message
    assert "hush" not in message
