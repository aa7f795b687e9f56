"""Providers as processes: our scripted one and `llmock`, and where each official client finds them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from deploy.demo.script import TokenUsage
from tests.support.waiting import free_port

_START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """The base URLs that make the clients speak to one server. OpenAI's is given with its /v1."""

    openai: str
    anthropic: str
    gemini: str
    gemini_version: str | None = None
    """None is the client's own default."""

    def settings(self) -> dict[str, str]:
        """The product's settings that make it forward here."""
        return {
            "NULLSPEND_UPSTREAM_OPENAI": self.openai.removesuffix("/v1"),
            "NULLSPEND_UPSTREAM_ANTHROPIC": self.anthropic,
            "NULLSPEND_UPSTREAM_GOOGLE": self.gemini,
        }


def at_root(url: str, *, gemini_version: str | None = None) -> Place:
    """A server that has all three APIs where the providers have them, as the proxy does."""
    return Place(f"{url}/v1", url, url, gemini_version)


@dataclass(frozen=True, slots=True)
class Served:
    """A reply in the scripted provider's own account."""

    tag: str | None
    model: str
    status: int
    usage: TokenUsage
    completed: bool
    client_gone: bool


class Scripted:
    """The scripted provider in a process of its own, asked over HTTP what it served."""

    def __init__(self, url: str) -> None:
        self.url = url

    @property
    def place(self) -> Place:
        return at_root(self.url)

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/_script/stats", trust_env=False, timeout=30).json()
        return found

    def served(self, prefix: str) -> list[Served]:
        """Every reply whose request was tagged with the prefix."""
        return [
            Served(
                row["tag"],
                row["model"],
                row["status"],
                TokenUsage(**row["usage"]),
                row["completed"],
                row["client_gone"],
            )
            for row in self.stats()["served"]
            if (row["tag"] or "").startswith(prefix)
        ]


@contextmanager
def scripted_provider() -> Iterator[Scripted]:
    command = [sys.executable, "-m", "deploy.demo.provider", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "listening on " in line, line
            yield Scripted(line.split("listening on ", 1)[1].strip())
        finally:
            process.terminate()


@contextmanager
def llmock(log: Path) -> Iterator[Place]:
    """The mock with its defaults: it answers in text, and calls a tool where one is offered."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    program = Path(sys.executable).with_name("llmock")
    with (
        log.open("wb") as output,
        subprocess.Popen([program, "serve", "-p", str(port)], stdout=output, stderr=output) as process,
    ):
        try:
            await_answer(f"{url}/v1/models", process)
            yield Place(f"{url}/v1", f"{url}/anthropic", f"{url}/gemini", "v1beta")
        finally:
            process.terminate()


def await_answer(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, f"the process behind {url} ended with {process.returncode}"
        assert time.monotonic() < deadline, f"no answer from {url}"
        time.sleep(0.05)
