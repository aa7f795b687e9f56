"""`python -m control_plane`: the API and, unless told otherwise, the background work, until SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import uvicorn

from control_plane.app import create_app
from control_plane.settings import Settings, SettingsError
from control_plane.wiring import connected
from control_plane.worker import Worker


class Server(uvicorn.Server):
    """Without uvicorn's signal handling, which ends the process before the stores are closed."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        self.should_exit = True


async def serve(settings: Settings) -> None:
    """A signal ends the server; requests that were begun are finished, then the work stops, then the stores."""
    async with AsyncExitStack() as stack:
        context = await stack.enter_async_context(connected(settings))
        worker = None
        if settings.control_worker == "inline":
            worker = await stack.enter_async_context(Worker(context))
        config = uvicorn.Config(
            create_app(context, worker),
            host=settings.control_host,
            port=settings.control_port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
            lifespan="off",
        )
        server, loop = Server(config), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        await server.serve()


def main() -> None:
    try:
        settings = Settings.read()
    except SettingsError as error:
        sys.exit(f"nullspend control plane:\n{error}")
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
