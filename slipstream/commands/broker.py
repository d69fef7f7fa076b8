"""`slipstream broker`: a small Kafka-compatible broker for a laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("broker")(broker)


def broker(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 9092,
    log_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The broker's own log; else in the cache folder.")
    ] = None,
) -> None:
    """Run Tansu in memory until Ctrl-C: everything in it is gone then. For real use, run Apache Kafka."""
    import signal
    import threading

    from slipstream.paths import cache_dir
    from streams.broker import BrokerFailed, TansuBroker

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with TansuBroker(log_file or cache_dir() / "broker.log", port) as tansu:
            print(f"{tansu.bootstrap}   (in memory; Ctrl-C ends it)", flush=True)
            stop.wait()
    except BrokerFailed as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
