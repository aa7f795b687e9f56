"""`nullspend ledger audit`: the books, proved from the outside."""

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from control_plane.kernel.db import DatabaseUnavailable
from control_plane.kernel.redis import RedisUnavailable
from control_plane.ledger.audit import AuditInconclusive, AuditReport, run_audit
from control_plane.settings import Settings
from control_plane.wiring import connected


def run_ledger_audit(data: Path, console: Console, *, as_json: bool) -> int:
    """Prints the report. Returns 0 when everything agrees, 1 on a finding, 2 when there is nothing to audit."""
    urls = _urls(data)
    if urls is None:
        console.print(
            f"Nothing to audit: {data} has no running instance, and NULLSPEND_DATABASE_URL and NULLSPEND_REDIS_URL "
            "are not both set. Start it with `nullspend up`.",
            soft_wrap=True,
        )
        return 2
    try:
        report = asyncio.run(_audit(Settings(database_url=urls[0], redis_url=urls[1])))
    except (AuditInconclusive, DatabaseUnavailable, RedisUnavailable) as error:
        console.print(f"The audit could not be made: {escape(str(error))}", soft_wrap=True)
        return 3
    if as_json:
        print(json.dumps(asdict(report), indent=2))
    else:
        _show(report, console)
    return 1 if report.findings else 0


async def _audit(settings: Settings) -> AuditReport:
    async with connected(settings) as context:
        return await run_audit(context)


def _show(report: AuditReport, console: Console) -> None:
    for name, value in asdict(report).items():
        if name != "findings":
            console.print(f"{name.replace('_', ' '):32} {value}")
    for finding in report.findings:
        console.print(f"[bold red]{finding.kind}[/] {escape(str(asdict(finding)))}", soft_wrap=True)
    if report.findings:
        console.print(f"[bold red]{len(report.findings)} findings: the books do not agree.[/]")
    else:
        console.print("[green]The books agree.[/]")


def _urls(data: Path) -> tuple[str, str] | None:
    """From the environment, else from the running instance of the data directory."""
    path = data / "runtime.json"
    runtime: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    database = os.environ.get("NULLSPEND_DATABASE_URL") or runtime.get("NULLSPEND_DATABASE_URL")
    redis = os.environ.get("NULLSPEND_REDIS_URL") or runtime.get("NULLSPEND_REDIS_URL")
    return (database, redis) if database and redis else None
