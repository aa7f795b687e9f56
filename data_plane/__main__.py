"""`python -m data_plane`: one worker, until SIGTERM or SIGINT."""

import asyncio
import logging
import signal
import sys

import uvloop

from data_plane.settings import SettingsError, read_settings
from data_plane.wiring import Worker


async def _run() -> None:
    worker = Worker(read_settings())
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await worker.start()
    logging.getLogger("nullspend").info("a worker listens on port %d", worker.port)
    await stop.wait()
    await worker.stop()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        uvloop.run(_run())
    except SettingsError as error:
        sys.exit(f"nullspend data plane: {error}")


if __name__ == "__main__":
    main()
