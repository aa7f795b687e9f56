"""`nullspend up`: every process of the product on one machine, started in order and stopped in the reverse."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from control_plane.bootstrap import BootstrapError, Credentials, bootstrap
from control_plane.cli.supervisor import Child, Supervisor
from control_plane.migrations import upgrade
from control_plane.settings import Settings
from control_plane.wiring import connected
from deploy.embedded import EmbeddedStack, StackError
from shared.ids import ORG

_READY_S: Final = 60.0
_DRAIN: Final = ("NULLSPEND_DRAIN_SECONDS", "30")
"""Shorter than a worker's own default: somebody who pressed ^C is waiting."""
_STOP_S: Final = 30.0
"""How long a process may take to stop once no call keeps it."""
CREDENTIALS: Final = "credentials.json"


@dataclass(frozen=True, slots=True)
class Options:
    data: Path
    host: str
    port: int
    control_port: int
    workers: int
    environment: tuple[tuple[str, str], ...] = ()
    """Further settings of the children."""


class UpError(Exception):
    """The product cannot start; the message says what to do."""


class Product:
    """Everything `up` runs. `start` blocks until it serves, `stop` until every call is settled and stored."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.credentials: Credentials | None = None
        self._stack: EmbeddedStack | None = None
        self._supervisor = Supervisor()
        self._runtime: Path | None = None

    @property
    def proxy_url(self) -> str:
        return f"http://{_shown(self.options.host)}:{self.options.port}"

    @property
    def control_url(self) -> str:
        return f"http://{_shown(self.options.host)}:{self.options.control_port}"

    def start(self) -> None:
        """Raises UpError or StackError, with nothing left running."""
        try:
            environment = self._servers()
            asyncio.run(upgrade(environment["NULLSPEND_DATABASE_URL"]))
            self.credentials = self._bootstrap(environment)
            self._children(environment)
            self._await_ready()
        except BaseException:
            self.stop()
            raise

    def watch(self, stopping: threading.Event) -> None:
        """Keeps every process running until `stopping` is set."""
        self._supervisor.stopping = stopping
        self._supervisor.watch()

    def stop(self) -> None:
        """The proxy first, so that every ending reaches the stream; then its readers; then the servers."""
        self._supervisor.stopping.set()
        self._supervisor.stop(("worker",), _drain_s() + _STOP_S)
        self._supervisor.stop(("control",), _STOP_S)
        if self._runtime is not None:  # ours: a start that failed leaves alone what another instance wrote
            _remove(self._runtime)
        if self._stack is not None:
            self._stack.stop()

    def _servers(self) -> dict[str, str]:
        """The URLs of both servers, given or embedded, and the children's environment with them."""
        database, redis = os.environ.get("NULLSPEND_DATABASE_URL"), os.environ.get("NULLSPEND_REDIS_URL")
        for port in (self.options.port, self.options.control_port):
            _require_free(self.options.host, port)
        self._stack = EmbeddedStack(self.options.data, postgres=not database, valkey=not redis)
        self._stack.start()
        environment = {
            "NULLSPEND_DATABASE_URL": database or self._stack.database_url,
            "NULLSPEND_REDIS_URL": redis or self._stack.redis_url,
            "NULLSPEND_HOST": self.options.host,
            "NULLSPEND_PORT": str(self.options.port),
            "NULLSPEND_CONTROL_HOST": self.options.host,
            "NULLSPEND_CONTROL_PORT": str(self.options.control_port),
            _DRAIN[0]: os.environ.get(*_DRAIN),
            **dict(self.options.environment),
        }
        # Other commands find the servers of this instance here; it holds passwords.
        self._runtime = self.options.data / "runtime.json"
        _write_private(self._runtime, {"pid": os.getpid(), **environment})
        return environment

    def _bootstrap(self, environment: dict[str, str]) -> Credentials:
        path = self.options.data / CREDENTIALS
        known = json.loads(path.read_text()) if path.exists() else {}
        settings = Settings(
            database_url=environment["NULLSPEND_DATABASE_URL"], redis_url=environment["NULLSPEND_REDIS_URL"]
        )
        try:
            credentials = asyncio.run(_found(settings, known))
        except BootstrapError as error:
            raise UpError(f"{error} ({path})") from error
        written = {
            "proxy_url": self.proxy_url,
            "control_url": self.control_url,
            "api_key": credentials.service_key,
            "admin_key": credentials.admin_key,
            "org_id": ORG + credentials.org_id,
        }
        _write_private(path, written)
        return credentials

    def _children(self, environment: dict[str, str]) -> None:
        logs = self.options.data / "logs"
        self._supervisor.start(Child("control plane", "control_plane", environment, logs / "control-plane.log"))
        for number in range(self.options.workers):
            own = {**environment, "NULLSPEND_WORKER": str(number)}
            self._supervisor.start(Child(f"worker {number}", "data_plane", own, logs / f"worker-{number}.log"))

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        with httpx.Client(timeout=2, trust_env=False) as client:
            for url in (f"{self.control_url}/health/ready", f"{self.proxy_url}/health/ready"):
                while not _ready(client, url):
                    if time.monotonic() > deadline:
                        raise UpError(f"{url} did not become ready; see the logs in {self.options.data / 'logs'}")
                    self._supervisor.tend()
                    time.sleep(0.05)


async def _found(settings: Settings, known: dict[str, str]) -> Credentials:
    async with connected(settings) as context:
        return await bootstrap(context, admin_key=known.get("admin_key"), service_key=known.get("api_key"))


def run_up(options: Options, console: Console) -> int:
    """Runs until SIGINT or SIGTERM. Returns the exit code."""
    product, stopping = Product(options), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        with console.status("Starting PostgreSQL, Valkey, the control plane and the proxy"):
            product.start()
    except (UpError, StackError) as error:
        console.print(f"[bold red]NullSpend cannot start:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    console.print(_welcome(product))
    product.watch(stopping)
    console.print("Stopping: calls in flight finish first.")
    product.stop()
    console.print(f"Stopped. Everything is kept in {options.data}.", soft_wrap=True)
    return 0


def _welcome(product: Product) -> Panel:
    assert product.credentials is not None
    path = product.options.data / CREDENTIALS
    lines = (
        f"Proxy        {product.proxy_url}",
        f"  OpenAI     base URL {product.proxy_url}/v1",
        f"  Anthropic  base URL {product.proxy_url}",
        f"REST API     {product.control_url}/docs",
        "",
        f"Key          {product.credentials.service_key}",
        "             send it as the header X-NullSpend-Key beside your provider's own key",
        f"Admin key    in {path}",
        f"Data         {product.options.data}",
        "",
        "Stop with ^C: nothing is lost.",
    )
    return Panel("\n".join(lines), title="NullSpend is running", expand=False)


def _drain_s() -> float:
    """How long the workers wait for their calls. They refuse to start where it is no number."""
    try:
        return float(os.environ.get(*_DRAIN))
    except ValueError:
        return float(_DRAIN[1])


def _ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def _require_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UpError(
                f"port {port} on {host} cannot be used ({error.strerror}); choose others with --port and --control-port"
            ) from error


def _write_private(path: Path, document: dict[str, Any]) -> None:
    """Readable by its owner only, and never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    _remove(draft)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")
    draft.replace(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _shown(host: str) -> str:
    return "127.0.0.1" if host in {"0.0.0.0", "::", ""} else host  # noqa: S104 - what to show for "everywhere"
