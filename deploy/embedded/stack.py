"""The stack as its users see it: two supervised servers on one data directory, and the URLs to reach them."""

import atexit
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.embedded.lock import DirectoryLock
from deploy.embedded.options import Options
from deploy.embedded.postgres import Postgres
from deploy.embedded.privileges import make_passable
from deploy.embedded.sockets import remove_socket_dirs
from deploy.embedded.status import ServerStatus, StackError
from deploy.embedded.supervisor import Server, Supervisor
from deploy.embedded.valkey import Valkey


class EmbeddedStack:
    """Real PostgreSQL and real Valkey in `data_dir`; either may be left out. All methods are for one thread."""

    def __init__(
        self, data_dir: Path, *, postgres: bool = True, valkey: bool = True, options: Options | None = None
    ) -> None:
        self.data_dir = data_dir.absolute()
        options = options or Options()
        self._postgres = Postgres(self.data_dir, options) if postgres else None
        self._valkey = Valkey(self.data_dir, options) if valkey else None
        servers: tuple[Server | None, ...] = (self._postgres, self._valkey)
        self._servers = [server for server in servers if server is not None]
        self._supervisors: list[Supervisor] = []
        self._lock: DirectoryLock | None = None
        self._launcher_pid = os.getpid()

    @property
    def database_url(self) -> str:
        """`postgresql://nullspend:PASSWORD@/nullspend?host=SOCKET_DIR&port=5432`"""
        assert self._postgres is not None, "this stack was made without PostgreSQL"
        return self._postgres.url

    @property
    def redis_url(self) -> str:
        """`unix://:PASSWORD@SOCKET_PATH`"""
        assert self._valkey is not None, "this stack was made without Valkey"
        return self._valkey.url

    def start(self, *, timeout_s: float = 120) -> None:
        """Block until every server is ready; raise StackError, with nothing left running, if one cannot be."""
        assert self._lock is None, "the stack is already started"
        self._make_directories()
        self._lock = DirectoryLock.acquire(self.data_dir / ".lock")
        self._launcher_pid = os.getpid()
        # Where the kernel does not end the servers with us (macOS), an ordinary exit still does.
        atexit.register(self.stop)
        try:
            deadline = time.monotonic() + timeout_s
            self._supervisors = [Supervisor(server) for server in self._servers]
            for supervisor in self._supervisors:
                supervisor.start()
            for supervisor in self._supervisors:
                supervisor.await_ready(deadline)
        except BaseException:
            self.stop()
            raise

    def status(self) -> dict[str, ServerStatus]:
        statuses = [supervisor.status() for supervisor in self._supervisors]
        return {status.name: status for status in statuses} or {
            server.name: ServerStatus(server.name, running=False, restarts=0, pid=None, last_error=None)
            for server in self._servers
        }

    def stop(self) -> None:
        """Stop the servers cleanly and give the directory free; again is harmless, and so is in a forked child."""
        if self._lock is None or os.getpid() != self._launcher_pid:
            return
        for supervisor in self._supervisors:
            supervisor.request_stop()
        for supervisor in self._supervisors:
            supervisor.await_stop()
        remove_socket_dirs(self.data_dir)
        self._lock.release()
        self._lock = None
        atexit.unregister(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _make_directories(self) -> None:
        try:
            # From root, PostgreSQL's user may need to pass through, but nobody needs to look.
            make_passable(self.data_dir, 0o711 if os.geteuid() == 0 else 0o700)
            (self.data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StackError(
                f"the data directory {self.data_dir} cannot be made ({error.strerror}): choose another one"
            ) from error
