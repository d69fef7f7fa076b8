"""`slipstream data`: which data sets there are, where they are, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from catalogue.statistics import Statistics

Name = Annotated[str, typer.Argument(help="The data set; `slipstream data list` has the names.")]
DataPath = Annotated[
    Path | None,
    typer.Option("--data", metavar="PATH", help="Look only here: the data set's folder, or the folder that holds it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

data = typer.Typer(
    help="Data sets: MovieLens-100K is fetched; others are read from --data PATH or $SLIPSTREAM_DATA.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the group to the command."""
    app.add_typer(data, name="data")


@data.command("list")
def list_sets(path: DataPath = None, as_json: AsJson = False) -> None:
    """List the data sets and where each would be read from; nothing is downloaded."""
    from catalogue.datasets import SOURCES, MissingData, find

    rows = []
    with _explained():
        for source in SOURCES:
            try:
                found = find(source.name, path)
            except MissingData:
                if path is None or not path.exists():
                    raise
                found = None
            can_fetch = any(layout.wheel for layout in source.layouts)
            place = None if found is None else str(found.place)
            rows.append((source, place, can_fetch))
    if as_json:
        print(json.dumps([{"name": s.name, "place": place, "fetched": can_fetch} for s, place, can_fetch in rows]))
        return
    where = [(s, place or ("fetched when used" if can_fetch else "missing")) for s, place, can_fetch in rows]
    _print_table(("data set", "what", "where"), [(s.name, s.summary, text) for s, text in where])


@data.command("fetch")
def fetch(name: Name = "ml-100k", path: DataPath = None) -> None:
    """Have a data set at hand: find or download it, verify every checksum, print its place."""
    from catalogue.datasets.loading import fetch_to_cache, find
    from catalogue.datasets.registry import source_of

    with _explained(), _spinner(f"fetching {name}"):
        found = find(name, path) or fetch_to_cache(source_of(name))
        found.read_verified()
    print(found.place)


@data.command("show")
def show(name: Name, path: DataPath = None, as_json: AsJson = False) -> None:
    """Count users, items and events, the time they span, simultaneous and repeated events."""
    from catalogue.datasets import load
    from catalogue.datasets.registry import source_of
    from catalogue.statistics import statistics

    with _explained(), _spinner(f"reading {name}"):
        counted = statistics(load(name, path))
    if as_json:
        print(json.dumps(asdict(counted)))
    else:
        _print_table(("", name), [*_lines(counted), ("licence", source_of(name).licence)])


def _lines(counted: Statistics) -> list[tuple[str, str]]:
    first, last = (
        datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")
        for moment in (counted.first_timestamp, counted.last_timestamp)
    )
    return [
        ("users", f"{counted.users:,} (the median has {counted.median_user_events:,.0f} events)"),
        ("items", f"{counted.items:,} ({counted.items_taken:,} with events)"),
        ("events", f"{counted.events:,} of type {counted.event_type}"),
        ("span (UTC)", f"{first} to {last}"),
        ("same-instant share", f"{counted.same_instant_share:.1%} have another event of their user at that instant"),
        ("repeat share", f"{counted.repeat_share:.1%} are of an item that their user had before"),
    ]


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(name, overflow="fold") for name in header))
    for row in rows:
        table.add_row(*row)
    Console().print(table)


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    """A sign of life on stderr while a data set is fetched and read (a second or two)."""
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextmanager
def _explained() -> Iterator[None]:
    """Turn a `DataError` into its message on stderr and exit code 2."""
    from catalogue.datasets import DataError

    try:
        yield
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
