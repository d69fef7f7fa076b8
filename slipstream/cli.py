"""The command `slipstream`. Each group lives in `slipstream/commands/`; what is heavy is imported when it runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from typing import Annotated

import typer

from slipstream import commands

app = typer.Typer(
    name="slipstream",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def door(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """LLM recommendation that learns while it serves."""
    if version:
        typer.echo(importlib.metadata.version("slipstream-rec"))
        raise typer.Exit


def main() -> None:
    """Register every command group and run."""
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"slipstream.commands.{module.name}").register(app)
    app()


if __name__ == "__main__":
    main()
