"""From the first start to the last stop: draining, restarting, a directory in use, and the commands around it."""

import asyncio
import json
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.support.control import Control, Event
from tests.support.product import Product, command
from tests.support.scripted import say
from tests.support.upstreams import Scripted
from tests.support.waiting import eventually, free_port

CUSTOMER: Final = "stays"
LIMIT: Final = 10**6
TEXT: Final = "one two three four five six seven eight nine ten"
_COST: Final = 2900  # 1,000 at 2.50 and 40 at 10 dollars a million
_PROXY_CHECKS: Final = ("proxy_reachable", "proxy_enforces", "clock", "key_works", "enforcement")
_CONTROL_CHECKS: Final = ("control_reachable", "admin_key_works")


@dataclass(slots=True)
class Seen:
    """What one instance showed between two of its stops."""

    credentials: dict[str, str]
    budget: dict[str, Any]
    events: list[Event]


@dataclass(slots=True)
class Story:
    """An instance that was told to stop in the middle of a stream, and was started again on the same directory."""

    streamed: str = ""
    ended: bool = False
    exit_code: int | None = None
    left: list[str] = field(default_factory=list)
    """What a stopped instance leaves of its run-time files."""
    doctor: dict[str, Any] = field(default_factory=dict)
    before: Seen | None = None
    after: Seen | None = None
    audit: tuple[int, Any] | None = None


def body(**script: Any) -> dict[str, Any]:
    stream = script.pop("stream", False)
    text = say(**{"in": 1000, "out": 40}, text=TEXT, **script)
    return {"model": "gpt-4o", "max_tokens": 100, "stream": stream, "messages": [{"role": "user", "content": text}]}


async def look(product: Product, count: int) -> Seen:
    async with Control(product) as control:
        budgets = await control.call("GET", "/api/budgets")
        events = await eventually(control.events, lambda rows: len(rows) >= count, within_s=10)
        await control.at_rest(budgets[0]["id"])
        return Seen(product.credentials, await control.budget(budgets[0]["id"]), events)


async def limit(product: Product) -> None:
    async with Control(product) as control:
        await control.limit("customer", CUSTOMER, LIMIT)


@pytest.fixture(scope="module")
def story(room: Path, scripted: Scripted, slow_machine: dict[str, str]) -> Iterator[Story]:
    told = Story()
    product = Product(room / "l", {**scripted.place.settings(), **slow_machine}, workers=1)
    product.start()
    try:
        asyncio.run(limit(product))
        headers = {"X-NullSpend-Key": product.credentials["api_key"], "X-NullSpend-Customer": CUSTOMER}
        with httpx.Client(base_url=product.url, headers=headers, timeout=60, trust_env=False) as client:
            assert client.post("/v1/chat/completions", json=body()).status_code == 200
            told.before = asyncio.run(look(product, 1))
            stop_in_the_middle(client, product, told)
        told.left = sorted(path.name for path in product.data.glob("*.json"))
        told.doctor = doctor("--data", str(product.data))
        product.start()
        told.after = asyncio.run(look(product, 2))
        told.audit = product.audit()
        assert product.stop() == 0
        yield told
    finally:
        product.kill()


def stop_in_the_middle(client: httpx.Client, product: Product, told: Story) -> None:
    request = body(stream=True, chunks=10, delay_ms=200)
    with client.stream("POST", "/v1/chat/completions", json=request) as reply:
        for line in reply.iter_lines():
            if line == "data: [DONE]":
                told.ended = True
            elif line.startswith("data: "):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                if not told.streamed and choice["delta"].get("content"):
                    product.signal()
                told.streamed += choice["delta"].get("content") or ""
    told.exit_code = product.wait()


def doctor(*arguments: str) -> dict[str, Any]:
    """Its exit code, and which checks failed."""
    done = command("doctor", "--json", *arguments)
    document = json.loads(done.stdout)
    failed = [check["id"] for check in document["checks"] if not check["ok"]]
    assert all(check["fix"] for check in document["checks"] if not check["ok"])
    assert (done.returncode == 0) == document["ok"] == (not failed)
    return {"code": done.returncode, "failed": failed}


def test_sigterm_lets_a_stream_end_and_the_exit_code_is_0(story: Story) -> None:
    assert (story.streamed, story.ended, story.exit_code) == (TEXT, True, 0)
    assert story.left == ["credentials.json"]


def test_a_restart_on_the_same_directory_keeps_keys_budgets_and_events(story: Story) -> None:
    assert story.before is not None
    assert story.after is not None
    assert story.after.credentials == story.before.credentials
    assert (len(story.before.events), len(story.after.events)) == (1, 2)
    assert story.after.events[1] == story.before.events[0]
    assert story.after.budget["id"] == story.before.budget["id"]
    drained = story.after.events[0]
    assert (drained["costMicrodollars"], drained["costSource"], drained["streaming"]) == (_COST, "exact", True)
    assert (story.before.budget["spendMicrodollars"], story.after.budget["spendMicrodollars"]) == (_COST, 2 * _COST)
    assert story.audit is not None
    assert (story.audit[0], story.audit[1]["findings"]) == (0, [])


def test_doctor_names_everything_that_a_stopped_instance_fails(story: Story) -> None:
    assert story.doctor == {
        "code": 1,
        "failed": [
            "proxy_reachable",
            "proxy_enforces",
            "clock",
            "control_reachable",
            "key_works",
            "admin_key_works",
            "enforcement",
        ],
    }


def test_doctor_finds_a_healthy_instance_in_order(product: Product) -> None:
    assert doctor("--data", str(product.data)) == {"code": 0, "failed": []}
    said = command("doctor", "--data", str(product.data))
    assert said.returncode == 0
    assert "Everything is in order." in said.stdout


def test_doctor_names_the_checks_that_fail_without_the_proxy(product: Product) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    said = command("doctor", "--data", str(product.data), "--proxy-url", nobody)
    assert said.returncode == 1
    failed = [name for name in (*_PROXY_CHECKS, *_CONTROL_CHECKS) if f"FAIL {name}:" in said.stdout]
    assert failed == list(_PROXY_CHECKS)
    assert f"Failed: {', '.join(_PROXY_CHECKS)}" in said.stdout
    assert nobody in said.stdout


def test_a_second_up_on_the_same_directory_says_who_uses_it_and_harms_nothing(product: Product) -> None:
    ports = ["--port", str(free_port()), "--control-port", str(free_port())]
    said = command("up", "--data", str(product.data), *ports)
    assert said.returncode == 1
    assert "cannot start" in said.stdout
    assert f"{product.data} is already in use by another NullSpend (process {product.pid})" in said.stdout
    assert httpx.get(f"{product.url}/health/ready", trust_env=False).status_code == 200
    assert product.audit()[0] == 0, "the commands still find the first one"


@pytest.mark.parametrize("which", ["--port", "--control-port"])
def test_a_busy_port_is_named(which: str, room: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        ports = {"--port": free_port(), "--control-port": free_port()} | {which: busy}
        said = command("up", "--data", str(room / "busy"), *(str(word) for pair in ports.items() for word in pair))
    assert said.returncode == 1
    assert f"port {busy} on 127.0.0.1 cannot be used" in said.stdout
    assert "--port" in said.stdout
    assert not (room / "busy" / "runtime.json").exists()


def test_the_keys_are_for_their_owner_s_eyes(product: Product) -> None:
    for name in ("credentials.json", "runtime.json"):
        assert stat.S_IMODE((product.data / name).stat().st_mode) == 0o600


def test_the_demo_tells_its_story_and_leaves_nothing(room: Path) -> None:
    said = command("demo", "--exit", settings={"TMPDIR": str(room)})
    assert said.returncode == 0, said.stdout + said.stderr
    assert "before it left" in said.stdout
    assert "HTTP 429 tag_budget_exceeded" in said.stdout
    assert " 0 failed." in said.stdout
    assert list(room.glob("nullspend-demo-*")) == []


@pytest.mark.parametrize("words", [("up",), ("doctor",), ("demo",), ("ledger", "audit")], ids=" ".join)
def test_the_help_of_every_command_shows_an_example(words: tuple[str, ...]) -> None:
    said = command(*words, "--help")
    assert said.returncode == 0
    assert "Example" in said.stdout
    assert f"nullspend {' '.join(words)}" in said.stdout.split("Example", 1)[1]


def test_the_help_lists_every_command() -> None:
    said = command("--help").stdout + command("ledger", "--help").stdout
    assert all(word in said for word in ("up", "doctor", "demo", "ledger", "audit"))
