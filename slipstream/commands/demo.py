"""`slipstream demo`: the whole loop on real data, on this machine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

T = TypeVar("T")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", envvar="SLIPSTREAM_DATA", metavar="PATH", help="Where MovieLens-100K lies; else fetched."
        ),
    ] = None,
    kafka: Annotated[
        str | None, typer.Option(envvar="SLIPSTREAM_KAFKA", metavar="HOST:PORT", help="A broker; else one is started.")
    ] = None,
    port: Annotated[int, typer.Option(help="The gateway's port; where it is taken, a free one.")] = 8080,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with the numbers as one JSON object.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Trainer workers; several send one another compressed steps.")
    ] = 2,
    pretrain_epochs: Annotated[float, typer.Option(min=0.1, help="Pre-training, when the cache is empty.")] = 4.0,
) -> None:
    """Pre-train, serve and learn from a replayed stream; ends with one table of what was measured.

    Exit code 1 when a process died or would not start (its log is named), 3 when a promise that does not depend on the
    machine's speed was broken.
    """
    import sys
    import tempfile

    import msgspec
    from rich.console import Console

    from catalogue.datasets import DataError
    from slipstream.cached_model import PretrainingFailed
    from slipstream.demo.gateway_client import NotReadyInTime
    from slipstream.demo.story import DemoSettings, NotTrainedInTime, play
    from slipstream.demo.traffic import EventsRefused
    from slipstream.demo.warm_up import LogNotEmpty
    from slipstream.paths import cache_dir
    from slipstream.processes import ProcessDied
    from streams.broker import BrokerFailed
    from streams.event_log import LogUnavailable

    runs = cache_dir() / "demo"
    runs.mkdir(parents=True, exist_ok=True)
    settings = DemoSettings(
        cache=cache_dir(),
        run_dir=Path(tempfile.mkdtemp(prefix="run-", dir=runs)),
        data=data,
        kafka=kafka,
        port=port,
        pretrain_epochs=pretrain_epochs,
        keep=keep,
        workers=workers,
    )
    console = Console(width=None if sys.stdout.isatty() else 160)
    expected = (
        DataError, PretrainingFailed, BrokerFailed, LogNotEmpty, LogUnavailable, ProcessDied, NotReadyInTime,
        NotTrainedInTime, EventsRefused,
    )  # fmt: skip
    try:
        report = asyncio.run(_until_signal(play(settings, console)))
    except expected as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    except (asyncio.CancelledError, KeyboardInterrupt):
        typer.echo("stopped; every process has ended", err=True)
        raise typer.Exit(130) from None
    if not keep:
        report.show(console)
    if as_json:
        print(msgspec.json.encode(report).decode())
    if report.broken():
        typer.echo(f"broken: {', '.join(report.broken())}", err=True)
        raise typer.Exit(3)


async def _until_signal(work: Coroutine[Any, Any, T]) -> T:
    """Await `work`; Ctrl-C and SIGTERM cancel it, so that it ends what it started."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    return await task
