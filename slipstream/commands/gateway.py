"""`slipstream gateway`: the public API in front of the replicas and the log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from catalogue.popularity import Popularity
    from contracts.item import Item

_TOKEN_VARIABLE = "SLIPSTREAM_ADMIN_TOKEN"  # noqa: S105 - a variable's name
_PRIOR_FRACTION = 0.8
"""Of a data set's timeline: what lies in the log before the stream begins. The rest would be the future."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gateway")(gateway)


def gateway(
    kafka: Annotated[str, typer.Option(envvar="SLIPSTREAM_KAFKA", metavar="HOST:PORT", help="The Kafka broker.")],
    replica: Annotated[list[str], typer.Option(metavar="URL", help="A serving replica; repeat for each.")],
    items: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|DATASET",
            help="Items to know before the items topic is read: JSON lines, or a data set's name, whose popularity "
            "then answers while there is no log.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="PATH", help="Where the data set of --items lies.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the public API.")] = 8080,
    admin_port: Annotated[int, typer.Option(help="Port of the operators' API.")] = 8081,
    admin_token_env: Annotated[
        str, typer.Option(help="Variable that holds the admin token; without it the admin port stays closed.")
    ] = _TOKEN_VARIABLE,
    exclude_seen: Annotated[
        bool,
        typer.Option("--exclude-seen/--repeat-seen", help="Whether to leave out what the user has already taken."),
    ] = True,
    rollout: Annotated[
        bool, typer.Option("--rollout/--no-rollout", help="Roll releases out; exactly one gateway does.")
    ] = True,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve recommendations and take events, until SIGTERM."""
    from gateway.server import run
    from gateway.service import Gateway
    from gateway.settings import GatewaySettings
    from slipstream import logs
    from streams.kafka_log import KafkaEventLog

    known, prior = _catalogue(items, data)
    token = os.environ.get(admin_token_env, "")
    if not token:
        typer.echo(f"slipstream gateway: {admin_token_env} is not set: the admin port stays closed", err=True)
    try:
        settings = GatewaySettings(replicas=tuple(replica), exclude_seen=exclude_seen)
        log = KafkaEventLog(kafka, client_id="slipstream-gateway")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    logs.configure(log_level)
    service = Gateway(settings, log, items=known, prior=prior, run_rollout=rollout)
    run(service, host, port, admin_port if token else None, token)


def _catalogue(items: str | None, data: Path | None) -> tuple[list[Item], Popularity | None]:
    """What `--items` names: the items, and for a data set its popularity."""
    from catalogue.datasets import NAMES, DataError, load
    from catalogue.popularity import Popularity
    from catalogue.replay import split, timeline

    if items is None:
        return [], None
    if items not in NAMES:
        return _read_items(Path(items)), None
    try:
        dataset = load(items, data)
    except DataError as error:
        raise typer.BadParameter(str(error), param_hint="--items") from error
    popularity = Popularity.all_time(dataset.item_ids)
    past, _ = split(timeline(dataset), _PRIOR_FRACTION)
    for item, timestamp in zip(past.item.tolist(), past.timestamp.tolist(), strict=True):
        popularity.observe(0, item, timestamp)
    return dataset.items, popularity


def _read_items(path: Path) -> list[Item]:
    from contracts.item import Item
    from contracts.wire import UnreadableMessage, decode

    if not path.is_file():
        raise typer.BadParameter(f"{path} is neither a data set's name nor a file", param_hint="--items")
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(decode(line, Item))
        except UnreadableMessage as error:
            raise typer.BadParameter(f"{path}, line {number}: {error}", param_hint="--items") from error
    return found
