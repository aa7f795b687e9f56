"""A Valkey that can be killed and started again on what it wrote, and a worker in a process of its own."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from shared.redis_wire import RedisClient, RedisDown
from tests.valkey import binary

_PORT: Final = re.compile(rb"a worker listens on port (\d+)")


class Store:
    """A server that writes every command to disk before it answers. Use as `with Store() as store`."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nsd"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._folder / 's'}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        folder = str(self._folder)
        command = [str(binary()), "--port", "0", "--unixsocket", f"{folder}/s", "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--logfile", f"{folder}/log"]
        self._process = subprocess.Popen(command)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def suspend(self) -> None:
        """From here on it answers nothing, and hears everything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


async def answers(redis: RedisClient) -> None:
    """Waits for a server that was started again."""
    async with asyncio.timeout(10):
        while True:
            try:
                await redis.execute("PING")
                return
            except RedisDown:
                await asyncio.sleep(0.01)


class Process:
    """A worker as it runs in production."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self._process.wait()


@asynccontextmanager
async def process(redis_url: str, upstream_url: str, **settings: str) -> AsyncIterator[Process]:
    """Started by `python -m data_plane`; `settings` are environment variables without their prefix."""
    bases = {f"NULLSPEND_UPSTREAM_{name}": upstream_url for name in ("OPENAI", "ANTHROPIC", "GOOGLE")}
    own = {f"NULLSPEND_{name.upper()}": value for name, value in settings.items()}
    env = {**os.environ, "NULLSPEND_REDIS_URL": redis_url, "NULLSPEND_PORT": "0", **bases, **own}
    command = (sys.executable, "-m", "data_plane")
    worker = await asyncio.create_subprocess_exec(*command, env=env, stderr=asyncio.subprocess.PIPE)
    assert worker.stderr is not None
    try:
        async with asyncio.timeout(20):
            while not (found := _PORT.search(line := await worker.stderr.readline())):
                assert line, "the worker ended before it listened"
        yield Process(worker, int(found[1]))
    finally:
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()
