"""`slipstream topics`: bring a broker's topics in line with their declaration."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streams.topics import TopicReport

Kafka = Annotated[
    str, typer.Option("--kafka", envvar="SLIPSTREAM_KAFKA", metavar="HOST:PORT", help="The Kafka broker.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON array instead of a table.")]

topics = typer.Typer(help="Kafka topics: create what is missing, report what differs.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group to the command."""
    app.add_typer(topics, name="topics")


@topics.command("apply")
def apply(
    kafka: Kafka,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, help="Copies of each partition. Default: 3, or one a broker if fewer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create missing topics, add declared partitions. Exit code 1 when something was refused."""
    from streams.event_log import LogUnavailable
    from streams.topics import TopicAction, apply_topics

    try:
        reports = apply_topics(kafka, replication_factor=replication_factor)
    except (LogUnavailable, ValueError) as error:
        raise _failure(error) from error
    _print(reports, as_json)
    if any(report.action is TopicAction.REFUSED for report in reports):
        raise typer.Exit(1)


@topics.command("list")
def list_topics(kafka: Kafka, as_json: AsJson = False) -> None:
    """Show the declared topics as the broker has them; changes nothing."""
    from streams.event_log import LogUnavailable
    from streams.topics import compare_topics

    try:
        reports = compare_topics(kafka)
    except (LogUnavailable, ValueError) as error:
        raise _failure(error) from error
    _print(reports, as_json)


def _failure(error: Exception) -> typer.Exit:
    typer.echo(f"slipstream topics: {error}", err=True)
    return typer.Exit(2)


def _print(reports: list[TopicReport], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(report) for report in reports]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("topic", "partitions", "replicas", "", "note")
    for report in reports:
        state = report.action.value if report.partitions else "missing"
        note = "; ".join(filter(None, (report.problem, *report.drift)))
        table.add_row(report.name, str(report.partitions), str(report.replicas), state, note)
    Console().print(table)
