"""`nullspend doctor`: one deployment checked from the outside, each finding with what to do about it."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
from rich.console import Console
from rich.markup import escape

_TIMEOUT_S: Final = 10.0
_KEY: Final = re.compile(r"ns_live_sk_[0-9a-f]{32}")
_SKEW_MAX_MS: Final = 2_000
_PROBE: Final = {"model": "gpt-4o-mini", "max_tokens": 1, "messages": [{"role": "user", "content": "ping"}]}


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked. Anything may be missing; then its checks say so."""

    proxy_url: str
    control_url: str
    api_key: str
    admin_key: str

    @classmethod
    def find(
        cls, data: Path, *, proxy_url: str | None, control_url: str | None, api_key: str | None, admin_key: str | None
    ) -> Self:
        """What was given, completed from the data directory's credentials, then from the default ports."""
        path = data / "credentials.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return cls(
            (proxy_url or known.get("proxy_url") or "http://127.0.0.1:8787").rstrip("/"),
            (control_url or known.get("control_url") or "http://127.0.0.1:8788").rstrip("/"),
            api_key or known.get("api_key") or "",
            admin_key or known.get("admin_key") or "",
        )


@dataclass(frozen=True, slots=True)
class Check:
    """One fact. `fix` says what to do; it is empty when the check passed."""

    id: str
    ok: bool
    found: str
    fix: str = ""


class Failed(Exception):
    """A check did not pass: what was found, and what to do."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.found = found
        self.fix = fix


def run_doctor(target: Target, console: Console, *, as_json: bool) -> int:
    """Runs every check in order. Returns 0 when all passed, 1 otherwise."""
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client:
        checks = [_run(name, check, target, client) for name, check in CHECKS.items()]
    if as_json:
        print(json.dumps({"ok": all(c.ok for c in checks), "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        for number, check in enumerate(checks, 1):
            mark = "[green]ok[/]  " if check.ok else "[bold red]FAIL[/]"
            console.print(f"{number:2}. {mark} {check.id}: {escape(check.found)}", soft_wrap=True)
            if check.fix:
                console.print(f"         → {escape(check.fix)}", soft_wrap=True)
        failed = [check.id for check in checks if not check.ok]
        console.print("Everything is in order." if not failed else f"Failed: {', '.join(failed)}")
    return 0 if all(check.ok for check in checks) else 1


def _run(name: str, check: Callable[[Target, httpx.Client], str], target: Target, client: httpx.Client) -> Check:
    try:
        return Check(name, ok=True, found=check(target, client))
    except Failed as failure:
        return Check(name, ok=False, found=failure.found, fix=failure.fix)
    except httpx.HTTPError as error:
        return Check(name, ok=False, found=f"no answer ({error})", fix="Fix the checks above first, then look at logs.")


def _proxy_reachable(target: Target, client: httpx.Client) -> str:
    _get(client, f"{target.proxy_url}/health", "Start it with `nullspend up`, or give --proxy-url.")
    return target.proxy_url


def _proxy_enforces(target: Target, client: httpx.Client) -> str:
    reply = client.get(f"{target.proxy_url}/health/ready")
    document = reply.json()
    if not document.get("enforcing"):
        raise Failed(
            f"the proxy serves but cannot enforce: {document.get('checks')}",
            "It needs Redis and published prices: check NULLSPEND_REDIS_URL and that the control plane runs.",
        )
    if not document.get("serving"):
        raise Failed("the proxy is draining", "Wait for its restart, or look at the other replicas.")
    return f"serving and enforcing, prices {document['checks']['prices']}"


def _clock(target: Target, client: httpx.Client) -> str:
    offset_ms = client.get(f"{target.proxy_url}/health/ready").json()["checks"]["clock_offset_ms"]
    if abs(offset_ms) > _SKEW_MAX_MS:
        raise Failed(
            f"the proxy's host is {offset_ms} ms away from Redis",
            "Synchronise the hosts' clocks (NTP): windows follow Redis, but logs and expiries would disagree.",
        )
    return f"{offset_ms} ms between the proxy's host and Redis"


def _control_reachable(target: Target, client: httpx.Client) -> str:
    document = _get(client, f"{target.control_url}/api/health", "Start it, or give --control-url.").json()
    if document.get("status") != "ok":
        raise Failed(f"the control plane says {document}", "Look at its log: PostgreSQL or Redis is away.")
    version = client.get(f"{target.control_url}/api/version").json().get("version", "unknown")
    return f"{target.control_url}, version {version}"


def _key_shape(target: Target, _: httpx.Client) -> str:
    for name, key in (("the key", target.api_key), ("the admin key", target.admin_key)):
        if not _KEY.fullmatch(key):
            raise Failed(
                f"{name} is missing or not of the form ns_live_sk_ and 32 hex digits",
                "Give --api-key and --admin-key, or point --data at the directory that `nullspend up` wrote.",
            )
    return f"{target.api_key[:19]}…"


def _key_works(target: Target, client: httpx.Client) -> str:
    """A body that cannot be forwarded: the answer shows whether the key was accepted, and nothing is sent."""
    reply = client.post(
        f"{target.proxy_url}/v1/chat/completions", content=b"{", headers={"X-NullSpend-Key": target.api_key}
    )
    if reply.status_code in {401, 403}:
        raise Failed(_error(reply), "Mint a key with the scope proxy: POST /api/keys with the admin key.")
    if reply.status_code != 400:
        raise Failed(f"expected 400 for a broken body, got {reply.status_code}", "Is this really the proxy's URL?")
    return "accepted by the proxy"


def _admin_works(target: Target, client: httpx.Client) -> str:
    reply = client.get(f"{target.control_url}/api/budgets", headers={"X-NullSpend-Key": target.admin_key})
    if reply.status_code != 200:
        raise Failed(_error(reply), "Use the admin_key of credentials.json, or a key with the scope admin.")
    return f"accepted by the control plane, {len(reply.json()['data'])} budgets"


def _base_urls(target: Target, _: httpx.Client) -> str:
    """The most common mistake: a base URL with or without /v1."""
    host = target.proxy_url.split("//")[-1]
    openai, anthropic = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("ANTHROPIC_BASE_URL", "")
    if host in openai and not openai.rstrip("/").endswith("/v1"):
        raise Failed(f"OPENAI_BASE_URL is {openai}", f"It must end in /v1: {target.proxy_url}/v1")
    if host in anthropic and anthropic.rstrip("/").endswith("/v1"):
        raise Failed(f"ANTHROPIC_BASE_URL is {anthropic}", f"It must not end in /v1: {target.proxy_url}")
    return "no contradiction in the environment"


def _enforcement(target: Target, client: httpx.Client) -> str:
    """A throw-away key with a budget of one microdollar: its call must be refused, once, before it leaves."""
    with _throwaway_key(target, client) as (key_id, secret):
        headers = {"X-NullSpend-Key": target.admin_key}
        limit = {"entityType": "api_key", "entityId": key_id, "maxBudgetMicrodollars": 1}
        made = client.post(f"{target.control_url}/api/budgets", json=limit, headers=headers)
        if made.status_code not in {200, 201}:
            raise Failed(f"a budget could not be created: {_error(made)}", "See the control plane's log.")
        started = time.monotonic()
        try:
            reply = client.post(
                f"{target.proxy_url}/v1/chat/completions", json=_PROBE, headers={"X-NullSpend-Key": secret}
            )
        finally:
            client.delete(f"{target.control_url}/api/budgets/{made.json()['data']['id']}", headers=headers)
        if reply.status_code != 429 or reply.headers.get("x-nullspend-denied") != "1":
            raise Failed(
                f"a call over its budget was answered {reply.status_code}",
                "Nothing may run on this deployment until this passes: compare the Redis of proxy and control plane.",
            )
        if reply.headers.get("x-should-retry") != "false":
            raise Failed("the denial does not say x-should-retry: false", "A proxy in between drops headers.")
        return f"a call over its budget is refused at once ({(time.monotonic() - started) * 1000:.0f} ms)"


@contextmanager
def _throwaway_key(target: Target, client: httpx.Client) -> Iterator[tuple[str, str]]:
    headers = {"X-NullSpend-Key": target.admin_key}
    body = {"name": "doctor", "scopes": ["proxy"]}
    made = client.post(f"{target.control_url}/api/keys", json=body, headers=headers)
    if made.status_code != 201:
        raise Failed(f"a key could not be minted: {_error(made)}", "See the control plane's log.")
    data = made.json()["data"]
    try:
        yield data["id"], data["rawKey"]
    finally:
        client.delete(f"{target.control_url}/api/keys/{data['id']}", headers=headers)


CHECKS: Final[dict[str, Callable[[Target, httpx.Client], str]]] = {
    "proxy_reachable": _proxy_reachable,
    "proxy_enforces": _proxy_enforces,
    "clock": _clock,
    "control_reachable": _control_reachable,
    "key_shape": _key_shape,
    "key_works": _key_works,
    "admin_key_works": _admin_works,
    "base_urls": _base_urls,
    "enforcement": _enforcement,
}


def _get(client: httpx.Client, url: str, fix: str) -> httpx.Response:
    try:
        reply = client.get(url)
    except httpx.HTTPError as error:
        raise Failed(f"{url} does not answer ({error})", fix) from error
    if reply.status_code != 200:
        raise Failed(f"{url} answers {reply.status_code}", fix)
    return reply


def _error(reply: httpx.Response) -> str:
    """The message of an error reply, whatever shape it has."""
    try:
        document: Any = reply.json()
        return f"{reply.status_code} {document['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{reply.status_code} {reply.text[:200]}"
