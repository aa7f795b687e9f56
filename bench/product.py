"""The NullSpend target: started as its users start it, with three budgets that every call of the bench holds."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from bench import cpu
from bench.native import PROXY_CORE, REST_CORE, BenchError, on_core
from bench.targets import Target, free_port, only

_READY_S: Final = 90.0
_SETTLE_S: Final = 20.0
_STOP_S: Final = 60.0
CUSTOMER: Final = "acme"
LIMIT: Final = 1_000_000_000_000
"""A million dollars in microdollars: nothing may be denied."""


@dataclass(frozen=True, slots=True)
class Product:
    target: Target
    control: httpx.Client
    scopes: tuple[tuple[str, str], ...]
    """(entity type, entity id) of the budgets."""

    def check_money(self, calls: int) -> int:
        """Microdollars a call cost. Raises BenchError unless each scope was charged for exactly `calls` equal calls."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            spent = self._spent()
            cost, rest = divmod(spent[0], calls) if calls else (0, 0)
            if cost and not rest and set(spent) == {spent[0]}:
                return cost
            if time.monotonic() > deadline:
                raise BenchError(f"{calls} equal calls were charged {spent} microdollars in {self.scopes}")
            time.sleep(0.2)

    def _spent(self) -> list[int]:
        budgets = _ok(self.control.get("/api/budgets", params={"limit": 100}))["data"]
        by_scope = {(one["entityType"], one["entityId"]): int(one["spendMicrodollars"]) for one in budgets}
        return [by_scope[scope] for scope in self.scopes]


@contextmanager
def product(folder: Path, upstream_port: int) -> Iterator[Product]:
    folder.mkdir()
    port, control_port = free_port(), free_port()
    command = [*on_core(REST_CORE), *_cli(), "up", "--data", str(folder / "data"), "--port", str(port)]
    command += ["--control-port", str(control_port), "--workers", "1"]
    environment = {**os.environ, "NULLSPEND_UPSTREAM_OPENAI": f"http://127.0.0.1:{upstream_port}"}
    log = folder / "up.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            credentials = _await_ready(process, folder / "data" / "credentials.json", log)
            with httpx.Client(
                base_url=credentials["control_url"],
                headers={"X-NullSpend-Key": credentials["admin_key"]},
                timeout=30,
                trust_env=False,
            ) as control:
                scopes = _budgets(control, credentials["org_id"], credentials["api_key"])
                worker = only(cpu.find(process.pid, is_worker), "data-plane worker")
                cpu.pin([worker], PROXY_CORE)
                ledger = [("ledger", found.pid) for found in cpu.find(process.pid, is_ledger)]
                headers = {"X-NullSpend-Key": credentials["api_key"], "X-NullSpend-Customer": CUSTOMER}
                target = Target("ours", port, proxy=(worker,), helpers=tuple(ledger), headers=headers)
                yield Product(target, control, scopes)
        finally:
            _stop(process)


def is_worker(process: cpu.Process) -> bool:
    """The process that takes the calls, by its command line."""
    return "data_plane" in process.command.split()


def is_ledger(process: cpu.Process) -> bool:
    return "valkey-server" in process.command or "redis-server" in process.command


def _cli() -> list[str]:
    installed = Path(sys.executable).with_name("nullspend")
    return [str(installed)] if installed.exists() else [sys.executable, "-m", "control_plane.cli.main"]


def _await_ready(process: subprocess.Popen[bytes], path: Path, log: Path) -> dict[str, str]:
    """The credentials, once both planes say that they are ready."""
    deadline = time.monotonic() + _READY_S
    with httpx.Client(timeout=2, trust_env=False) as client:
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
            if path.exists():
                credentials: dict[str, str] = json.loads(path.read_text())
                if all(_ready(client, credentials[name]) for name in ("proxy_url", "control_url")):
                    return credentials
    raise BenchError(f"`nullspend up` did not become ready:\n{log.read_text(errors='replace')[-2000:]}")


def _ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


def _budgets(control: httpx.Client, org_id: str, api_key: str) -> tuple[tuple[str, str], ...]:
    """Three scopes that each call holds its money in: the organisation, the key, the customer."""
    keys = _ok(control.get("/api/keys"))["data"]
    key_id = next(key["id"] for key in keys if api_key.startswith(key["keyPrefix"]))
    scopes = (("org", org_id), ("api_key", key_id), ("customer", CUSTOMER))
    for entity_type, entity_id in scopes:
        budget = {"entityType": entity_type, "entityId": entity_id, "maxBudgetMicrodollars": LIMIT}
        _ok(control.post("/api/budgets", json=budget))
    time.sleep(2)  # published to the worker within a second
    return scopes


def _ok(reply: httpx.Response) -> dict[str, Any]:
    if reply.is_error:
        raise BenchError(f"{reply.request.method} {reply.request.url}: {reply.status_code} {reply.text[:500]}")
    document: dict[str, Any] = reply.json()
    return document


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
