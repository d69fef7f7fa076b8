"""The command `slipstream`. Each group lives in `slipstream/commands/`; what is heavy is imported when it runs."""

from __future__ import annotations

import importlib
import pkgutil

import typer

from slipstream import commands

app = typer.Typer(
    name="slipstream",
    help="LLM recommendation that learns while it serves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Register every command group and run."""
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"slipstream.commands.{module.name}").register(app)
    app()


if __name__ == "__main__":
    main()
