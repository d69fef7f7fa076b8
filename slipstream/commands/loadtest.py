"""`slipstream loadtest`: a running gateway under the load of real users, open-loop or by Locust."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from loadtest.answers import Answer, Summary

Url = Annotated[str, typer.Option(envvar="SLIPSTREAM_URL", help="The gateway.")]
DataSet = Annotated[str, typer.Option("--dataset", help="Whose users to replay; `slipstream data list` has the names.")]
DataPath = Annotated[
    Path | None, typer.Option("--data", envvar="SLIPSTREAM_DATA", metavar="PATH", help="Where the data set lies.")
]

loadtest = typer.Typer(help="Load a running gateway (`slipstream demo --keep` starts one).", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the command."""
    app.add_typer(loadtest, name="loadtest")


@loadtest.command("open-loop")
def open_loop(
    url: Url = "http://127.0.0.1:8080",
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long.")] = 20.0,
    constant: Annotated[bool, typer.Option("--constant", help="Evenly spaced, instead of Poisson arrivals.")] = False,
    dataset: DataSet = "ml-100k",
    data: DataPath = None,
    seed: Annotated[int, typer.Option(help="Of arrivals and users.")] = 0,
    answers_file: Annotated[
        Path | None, typer.Option("--answers", metavar="FILE", help="Write every answer there, as JSON lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the JSON line.")] = False,
) -> None:
    """Ask for recommendations when they are due, whether or not earlier ones came; latency counts from then.

    Exit code 3 when a request was dropped.
    """
    import asyncio

    import msgspec

    from catalogue.datasets import DataError
    from loadtest.answers import summarise
    from loadtest.open_loop import OpenLoopSettings, drive
    from loadtest.report import measurements
    from loadtest.slo import EXIT_BROKEN
    from loadtest.users import endless_users, replayed

    settings = OpenLoopSettings(
        url=url, rate=rate, seconds=seconds, arrivals="constant" if constant else "poisson", seed=seed
    )
    try:
        users = endless_users(replayed(dataset, data), seed)
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--dataset") from error
    answers: list[Answer] = asyncio.run(drive(settings, users))
    if answers_file is not None:
        answers_file.write_bytes(b"".join(msgspec.json.encode(answer) + b"\n" for answer in answers))
    summary = summarise(answers)
    if not as_json:
        _print_table(summary)
    typer.echo(measurements("loadtest open-loop", summary))
    if summary.dropped:
        raise typer.Exit(EXIT_BROKEN)


@loadtest.command("locust", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def locust(
    context: typer.Context,
    url: Url = "http://127.0.0.1:8080",
    users: Annotated[int, typer.Option(min=1, help="Locust users at once.")] = 20,
    seconds: Annotated[int, typer.Option(min=1, help="For how long.")] = 60,
    dataset: DataSet = "ml-100k",
    data: DataPath = None,
) -> None:
    """Replay real users with Locust. Further options go to it: --slo-p99-ms, --html FILE, --csv PREFIX, …

    Exit code 3 when a service level was missed.
    """
    import loadtest.slo as beside

    locustfile = Path(beside.__file__).with_name("locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--headless", "--only-summary"]
    command += ["--host", url, "-u", str(users), "-r", str(users), "-t", f"{seconds}s", "--dataset", dataset]
    if data is not None:
        command += ["--data", str(data)]
    raise typer.Exit(subprocess.run([*command, *context.args], check=False).returncode)


def _print_table(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("open loop", "")
    for name in ("requests", "rate", "failures", "fallbacks", "dropped"):
        table.add_row(name, f"{getattr(summary, name):.6g}")
    for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms", "late_p99_ms"):
        table.add_row(name, f"{getattr(summary, name):.1f}")
    Console(stderr=True).print(table)
