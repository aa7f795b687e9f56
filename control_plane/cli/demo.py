"""`nullspend demo`: the whole product against a bundled scripted provider, with a day of traffic in half a minute.

Everything is real but the provider: the ledger holds, the proxy streams, the control plane records. It runs in a
temporary directory that is removed at the end.
"""

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from control_plane.cli.up import Options, Product, UpError
from deploy.embedded import StackError
from shared.money import format_dollars

_HOURS: Final = 24
_PARALLEL: Final = 16
_RUNAWAY_LIMIT: Final = 50_000
_RUNAWAY_CALLS_MAX: Final = 2_000
_RECORDED_LOOKS: Final = 50


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer of the demo's company: how busy it is, and what it calls."""

    id: str
    calls_per_hour: int
    model: str
    feature: str
    tokens: tuple[int, int]
    """Typical input and output tokens of a call."""


CUSTOMERS: Final = (
    Customer("northwind", 6, "gpt-4o", "support-agent", (2_400, 420)),
    Customer("globex", 4, "claude-sonnet-4-5", "contract-review", (9_000, 1_100)),
    Customer("initech", 5, "gpt-4o-mini", "search", (1_200, 160)),
    Customer("umbrella", 2, "gemini-2.5-pro", "research", (14_000, 2_200)),
    Customer("hooli", 8, "gpt-4o-mini", "autocomplete", (500, 60)),
    Customer("wonka", 1, "claude-sonnet-4-5", "support-agent", (3_000, 600)),
)
_DAYTIME: Final = (1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 10, 9, 7, 9, 10, 9, 8, 6, 4, 3, 2, 2, 1, 1)
"""How busy each hour of the day is, in tenths."""


@dataclass(slots=True)
class Tally:
    sent: int = 0
    denied: int = 0
    failed: dict[str, int] = field(default_factory=dict)


class Traffic:
    """The agents of the demo. They know the proxy's URL and a key, nothing else."""

    def __init__(self, proxy_url: str, api_key: str, *, seed: int) -> None:
        self._client = httpx.AsyncClient(base_url=proxy_url, timeout=60, trust_env=False)
        self._key = api_key
        self._random = random.Random(seed)  # noqa: S311 - the same traffic for the same seed
        self.tally = Tally()

    async def close(self) -> None:
        await self._client.aclose()

    def day(self) -> list[list[Customer]]:
        """The calls of each hour, by customer."""
        return [
            [customer for customer in CUSTOMERS for _ in range(max(1, customer.calls_per_hour * busy // 10))]
            for busy in _DAYTIME
        ]

    async def hour(self, calls: list[Customer]) -> None:
        gate = asyncio.Semaphore(_PARALLEL)

        async def one(customer: Customer) -> None:
            async with gate:
                await self.call(customer)

        await asyncio.gather(*(one(customer) for customer in self._random.sample(calls, len(calls))))

    async def call(self, customer: Customer, **labels: str) -> httpx.Response:
        """One call of a customer, in its provider's own shape."""
        tokens_in, tokens_out = (max(1, int(n * self._random.lognormvariate(0, 0.4))) for n in customer.tokens)
        path, body = _request(customer.model, json.dumps({"in": tokens_in, "out": tokens_out, "chunks": 8}))
        tags = json.dumps({"feature": customer.feature, **labels})
        headers = {
            "X-NullSpend-Key": self._key,
            "X-NullSpend-Customer": customer.id,
            "X-NullSpend-Tags": tags,
            "anthropic-version": "2023-06-01",
        }
        reply = await self._client.post(path, json=body, headers=headers)
        if reply.status_code == 200:
            self.tally.sent += 1
        elif reply.headers.get("x-nullspend-denied"):
            self.tally.denied += 1
        else:
            code = reply.headers.get("x-nullspend-error", str(reply.status_code))
            self.tally.failed[code] = self.tally.failed.get(code, 0) + 1
        return reply


def run_demo(console: Console, *, seed: int, port: int, control_port: int, keep: bool) -> int:
    """Runs until the story is told, then until ^C if `keep`. Returns the exit code."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    with tempfile.TemporaryDirectory(prefix="nullspend-demo-") as folder, _scripted_provider() as provider_url:
        upstreams = tuple((f"NULLSPEND_UPSTREAM_{name}", provider_url) for name in ("OPENAI", "ANTHROPIC", "GOOGLE"))
        options = Options(
            Path(folder), "127.0.0.1", port or _free_port(), control_port or _free_port(), 1, environment=upstreams
        )
        product = Product(options)
        try:
            with console.status("Starting the product and a scripted provider (no real provider is called)"):
                product.start()
        except (UpError, StackError) as error:
            console.print(f"[bold red]The demo cannot start:[/] {error}", soft_wrap=True)
            return 1
        watcher = threading.Thread(target=product.watch, args=(threading.Event(),), daemon=True)
        watcher.start()
        try:
            asyncio.run(_story(product, console, seed, stopping))
            if keep and not stopping.is_set():
                _invite(product, console)
                stopping.wait()
        finally:
            product.stop()
    console.print("The demo is over and left nothing behind.")
    return 0


async def _story(product: Product, console: Console, seed: int, stopping: threading.Event) -> None:
    assert product.credentials is not None
    traffic = Traffic(product.proxy_url, product.credentials.service_key, seed=seed)
    control = httpx.AsyncClient(
        base_url=product.control_url,
        headers={"X-NullSpend-Key": product.credentials.admin_key},
        timeout=30,
        trust_env=False,
    )
    try:
        await _play_day(traffic, console, stopping)
        if stopping.is_set():
            return
        await _runaway(traffic, control, console)
        console.print(await _spend_table(control, traffic.tally.sent))
        console.print(
            f"{traffic.tally.sent} calls answered, {traffic.tally.denied} denied before they left, "
            f"{sum(traffic.tally.failed.values())} failed."
        )
    finally:
        await traffic.close()
        await control.aclose()


async def _play_day(traffic: Traffic, console: Console, stopping: threading.Event) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("A day of traffic, hour by hour", total=_HOURS)
        for calls in traffic.day():
            if stopping.is_set():
                return
            await traffic.hour(calls)
            progress.advance(task)


async def _runaway(traffic: Traffic, control: httpx.AsyncClient, console: Console) -> None:
    """An agent that loops: its feature has five cents, and the ledger says no when they are held."""
    budget = {
        "entityType": "tag",
        "entityId": "agent_run=nightly-eval",
        "maxBudgetMicrodollars": _RUNAWAY_LIMIT,
    }
    (await control.post("/api/budgets", json=budget)).raise_for_status()
    looping = Customer("northwind", 0, "gpt-4o", "eval", (2_000, 300))
    console.print(f"\nA runaway agent starts to loop. Its budget: {format_dollars(_RUNAWAY_LIMIT)}.")
    for number in range(_RUNAWAY_CALLS_MAX):
        reply = await traffic.call(looping, agent_run="nightly-eval")
        if reply.status_code == 429:
            error = reply.json()["error"]
            details = error["details"]
            console.print(
                f"[bold]Stopped at call {number + 1}[/] with HTTP 429 {error['code']}, before it left: spent "
                f"{format_dollars(details['budget_spend_microdollars'])} of "
                f"{format_dollars(details['budget_limit_microdollars'])}, the next call may cost "
                f"{format_dollars(details['estimated_cost_microdollars'])}.\n  {escape(error['message'])}\n",
                soft_wrap=True,
            )
            return
    raise AssertionError("the runaway was not stopped")


async def _spend_table(control: httpx.AsyncClient, calls: int) -> Table:
    """Spend by customer, added up from the recorded events once all have arrived."""
    events = await _events(control)
    for _ in range(_RECORDED_LOOKS):  # they are recorded within a second or two
        if len(events) >= calls:
            break
        await asyncio.sleep(0.2)
        events = await _events(control)
    table = Table(title="What the day cost, by customer (scripted provider)")
    table.add_column("Customer")
    for name in ("Calls", "Input tokens", "Output tokens", "Cost"):
        table.add_column(name, justify="right")
    costs: dict[str, list[int]] = {}
    for event in events:
        row = costs.setdefault(event["customerId"] or "(none)", [0, 0, 0, 0])
        for index, amount in enumerate((1, event["inputTokens"], event["outputTokens"], event["costMicrodollars"])):
            row[index] += amount
    for customer, row in sorted(costs.items(), key=lambda item: -item[1][3]):
        table.add_row(customer, *(f"{n:,}" for n in row[:3]), format_dollars(row[3], decimals_min=6))
    return table


async def _events(control: httpx.AsyncClient) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 100}
    while True:
        reply = (await control.get("/api/cost-events", params=query)).raise_for_status().json()
        events += reply["data"]
        if not reply["hasMore"]:
            return events
        query["cursor"] = json.dumps(reply["cursor"])


def _invite(product: Product, console: Console) -> None:
    assert product.credentials is not None
    console.print(
        f"Look around: REST API {product.control_url}/docs with the key {product.credentials.admin_key}\n"
        f"Call it yourself: {product.proxy_url}/v1 with the header X-NullSpend-Key: {product.credentials.service_key}\n"
        "^C ends the demo and removes it.",
        soft_wrap=True,
    )


def _request(model: str, script: str) -> tuple[str, dict[str, Any]]:
    text = f"Please help this customer. #script:{script}"
    if model.startswith("claude"):
        return "/v1/messages", {"model": model, "max_tokens": 4096, "messages": [{"role": "user", "content": text}]}
    if model.startswith("gemini"):
        contents = [{"role": "user", "parts": [{"text": text}]}]
        body = {"contents": contents, "generationConfig": {"maxOutputTokens": 8192}}
        return f"/v1beta/models/{model}:generateContent", body
    messages = [{"role": "user", "content": text}]
    return "/v1/chat/completions", {"model": model, "max_tokens": 2048, "messages": messages}


@contextmanager
def _scripted_provider() -> Iterator[str]:
    """The bundled provider as a process of its own; yields its URL."""
    command = [sys.executable, "-m", "deploy.demo.provider", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if "listening on " not in line:
                raise UpError("the scripted provider did not start")
            yield line.split("listening on ", 1)[1].strip()
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
