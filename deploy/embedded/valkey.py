"""Valkey as the supervisor sees it: its private configuration, which engine made its data, when it is ready."""

import os
import signal
import socket
from pathlib import Path

from deploy.embedded.append_only import mend_append_only_file
from deploy.embedded.binaries import Version, find_valkey, version_of
from deploy.embedded.options import Options
from deploy.embedded.private_files import kept_password, new_password, write_private
from deploy.embedded.privileges import give
from deploy.embedded.process import Command, Identity, end_all
from deploy.embedded.sockets import socket_dir
from deploy.embedded.status import StackError

SOCKET = "valkey.sock"
PROGRAMS = frozenset({"valkey-server", "redis-server"})
OLDEST_MAJOR = 7
"""The first with functions and the append-only directory that the repair knows."""
ANSWER_S = 1.0

# The directory is relative to the working directory, so no path needs quoting.
# Every acknowledged write reaches the append-only file before its reply and the disk within a second;
# when memory is short, writes fail instead of money being forgotten.
CONFIGURATION = """\
# Written by NullSpend at every start; changes are lost.
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
dir ./
save ""
appendonly yes
appendfsync {appendfsync}
maxmemory-policy noeviction
daemonize no
set-proc-title no
always-show-logo no
"""


class Valkey:
    name = "valkey"
    stop_signals = (signal.SIGTERM, signal.SIGKILL)

    def __init__(self, data_dir: Path, options: Options) -> None:
        self.log = data_dir / "logs" / "valkey.log"
        self._data_dir = data_dir
        self._home = Path(os.path.realpath(data_dir / "valkey"))
        self._options = options
        self._server: Path | None = None
        self._socket: Path | None = None
        self._password = ""

    @property
    def url(self) -> str:
        assert self._socket is not None, "the URL is known once the server has started"
        return f"unix://:{self._password}@{self._socket}"

    def prepare(self) -> Command:
        # Unlike PostgreSQL it accepts any user, root included.
        identity = Identity.ourselves()
        self._home.mkdir(mode=0o700, exist_ok=True)
        give(self._home, identity)
        if self._server is None:
            server = find_valkey(self._options.lookup)
            _check_engine(self._home / "ENGINE", version_of(server, identity), server)
            self._server = server
        end_all(self._home, PROGRAMS, [(signal.SIGTERM, None, 30.0), (signal.SIGKILL, None, 5.0)])
        self._socket = socket_dir(self._data_dir, self.name, SOCKET, identity) / SOCKET
        self._password = self._own_password()
        configuration = self._home / "valkey.conf"
        appendfsync = "everysec" if self._options.durable else "no"
        settings = {"socket": self._socket, "password": self._password, "appendfsync": appendfsync}
        write_private(configuration, CONFIGURATION.format(**settings))
        return Command(self._server, (str(configuration),), identity, cwd=self._home, death_signal=signal.SIGTERM)

    def ready(self, pid: int) -> bool:  # noqa: ARG002  # the socket is new with every start
        """Whether it answers PING; while it still loads its data it answers with an error."""
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(ANSWER_S)
                client.connect(str(self._socket))
                client.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = client.recv(1024)
                while answer.count(b"\n") < 2 and (more := client.recv(1024)):
                    answer += more
        except OSError:
            return False
        return b"+PONG" in answer

    def mend(self, output: str) -> str | None:
        if "Bad file format reading the append only file" not in output:
            return None
        assert self._server is not None
        return mend_append_only_file(self._server, self._home)

    def _own_password(self) -> str:
        file = self._data_dir / "valkey.password"
        password = kept_password(file)
        if password is None:
            password = new_password()
            write_private(file, f"{password}\n")
        return password


def _check_engine(record: Path, found: Version, server: Path) -> None:
    """Refuse to let another engine, or an older one, at data it may not be able to read."""
    if found.major < OLDEST_MAJOR:
        raise StackError(f"{server} is {found.engine} {found.major}: version {OLDEST_MAJOR} or newer is needed")
    if record.exists():
        engine, _, major = record.read_text(encoding="utf-8").strip().partition(" ")
        if engine != found.engine or not major.isdecimal() or int(major) > found.major:
            raise StackError(
                f"{record.parent} was written by {engine} {major}, which {found.engine} {found.major} ({server}) "
                f"may not be able to read: install {engine} {major}, or choose another data directory"
            )
    write_private(record, f"{found.engine} {found.major}\n")
