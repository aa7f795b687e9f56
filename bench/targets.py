"""What is measured: nothing in between, nginx passing through, or a NullSpend worker doing its full work."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import cpu
from bench.native import PROXY_CORE, BenchError, on_core, started

_START_S: Final = 10.0

# The fair control: keep-alive on both sides, nothing buffered that need not be, no log.
_NGINX: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    client_body_buffer_size 1m;
    client_max_body_size 32m;
    upstream provider {{
        server 127.0.0.1:{upstream};
        keepalive 512;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://provider;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    port: int
    proxy: tuple[int, ...] = ()
    """Roots of the process trees that are the proxy."""
    helpers: tuple[tuple[str, int], ...] = ()
    """Other processes whose CPU belongs to a call, by name."""
    headers: dict[str, str] = field(default_factory=dict)


def direct(upstream_port: int) -> Target:
    return Target("direct", upstream_port)


@contextmanager
def nginx(folder: Path, upstream_port: int) -> Iterator[Target]:
    folder.mkdir()
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, upstream=upstream_port, port=port, user=user))
    command = [*on_core(PROXY_CORE), "nginx", "-p", str(folder), "-c", str(config)]
    with started(command, log=folder / "start.log") as process:
        await_port(port, log=folder / "start.log")
        yield Target("nginx", port, proxy=(process.pid,))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int, *, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise BenchError(f"nothing listens on port {port}: {log.read_text()}")


def only(processes: list[cpu.Process], what: str) -> int:
    if len(processes) != 1:
        raise BenchError(f"expected one {what}, found {[process.command for process in processes]}")
    return processes[0].pid
