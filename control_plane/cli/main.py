"""`nullspend`: every command and its help. What a command does is in the module of its name."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    name="nullspend",
    help="The profitability layer for AI-native software companies: hold, stream, charge, record.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
ledger_app = typer.Typer(no_args_is_help=True, help="Look after the ledger.", rich_markup_mode="markdown")
app.add_typer(ledger_app, name="ledger")

DataOption = Annotated[
    Path, typer.Option("--data", help="Where everything is kept.", envvar="NULLSPEND_DATA", show_default=True)
]
DEFAULT_DATA = Path(".nullspend")


@app.command()
def up(
    data: DataOption = DEFAULT_DATA,
    port: Annotated[int, typer.Option(help="Of the proxy your agents call.", envvar="NULLSPEND_PORT")] = 8787,
    control_port: Annotated[
        int, typer.Option("--control-port", help="Of the REST API.", envvar="NULLSPEND_CONTROL_PORT")
    ] = 8788,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Data-plane processes sharing the port.")] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.", envvar="NULLSPEND_HOST")] = "127.0.0.1",
) -> None:
    """Start the whole product on this machine: PostgreSQL, Valkey, control plane and proxy.

    `NULLSPEND_DATABASE_URL` and `NULLSPEND_REDIS_URL` replace the embedded servers. Stop it with ^C; nothing is lost.

    **Examples**

    `nullspend up`

    `nullspend up --data /var/lib/nullspend --port 9000 --workers 4`
    """
    from control_plane.cli.up import Options, run_up  # noqa: PLC0415 - `nullspend --help` must not load the product

    sys.exit(run_up(Options(data.absolute(), host, port, control_port, workers), Console()))


@app.command()
def doctor(
    data: DataOption = DEFAULT_DATA,
    proxy_url: Annotated[str | None, typer.Option(help="Instead of the one in credentials.json.")] = None,
    control_url: Annotated[str | None, typer.Option(help="Instead of the one in credentials.json.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Instead of the one there.", envvar="NULLSPEND_API_KEY")] = None,
    admin_key: Annotated[
        str | None, typer.Option(help="Instead of the one there.", envvar="NULLSPEND_ADMIN_KEY")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check one deployment from the outside and explain what is wrong. Exits 1 if a check fails.

    **Examples**

    `nullspend doctor`

    `nullspend doctor --proxy-url https://proxy.example.com --control-url https://api.example.com --json`
    """
    from control_plane.cli.doctor import Target, run_doctor  # noqa: PLC0415 - as above

    target = Target.find(data, proxy_url=proxy_url, control_url=control_url, api_key=api_key, admin_key=admin_key)
    sys.exit(run_doctor(target, Console(), as_json=as_json))


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="The traffic is the same for the same seed.")] = 7,
    port: Annotated[int, typer.Option(help="Of the proxy; 0 takes a free one.")] = 0,
    control_port: Annotated[int, typer.Option("--control-port", help="Of the REST API; 0 takes a free one.")] = 0,
    keep: Annotated[bool, typer.Option("--keep/--exit", help="Keep running afterwards, to look around.")] = True,
) -> None:
    """Run the product against a bundled scripted provider with a day of traffic of several customers.

    No provider account is needed and nothing leaves this machine. You see spend per customer, a runaway agent stopped
    by its budget, and a denial. Everything is removed at the end.

    **Example**

    `nullspend demo --seed 7`
    """
    from control_plane.cli.demo import run_demo  # noqa: PLC0415 - as above

    sys.exit(run_demo(Console(), seed=seed, port=port, control_port=control_port, keep=keep))


@ledger_app.command("audit")
def ledger_audit(
    data: DataOption = DEFAULT_DATA,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Prove that holds, ledger, events and rollups agree. Read-only, works under traffic; exits 1 on any finding.

    Uses `NULLSPEND_DATABASE_URL` and `NULLSPEND_REDIS_URL`, else the running instance of the data directory.

    **Example**

    `nullspend ledger audit --data .nullspend --json`
    """
    from control_plane.cli.ledger import run_ledger_audit  # noqa: PLC0415 - as above

    sys.exit(run_ledger_audit(data, Console(), as_json=as_json))


def main() -> None:
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    app()
