"""`slipstream bench ingest`: how fast the trainer turns the log into tensors, beside a loop that only polls."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the group `bench`, which `bench.py` has added."""
    group = next(found.typer_instance for found in app.registered_groups if found.name == "bench")
    assert group is not None, "bench.py registers a group"  # noqa: S101
    group.command("ingest")(ingest)


def ingest(
    events: Annotated[int, typer.Option(min=1000, help="Records that each turn reads.")] = 100_000,
    turns: Annotated[int, typer.Option(min=1, help="Turns of each loop, one after the other; medians count.")] = 5,
    batch_events: Annotated[int, typer.Option(min=1, help="Of a batch.")] = 64,
    users: Annotated[int, typer.Option(min=1, help="Whose events they are.")] = 943,
    items: Annotated[int, typer.Option(min=1, help="Of the catalogue.")] = 1682,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Fill a topic of an Apache Kafka of its own ($KAFKA_HOME), and read it both ways in turn."""
    import json
    import os
    import platform
    import tempfile
    from pathlib import Path
    from statistics import median

    import torch

    from contracts.item import Item
    from online_trainer.bench_ingest import fill, measure
    from recommender.initialise import preset_recommender
    from slipstream import logs
    from streams.apache_kafka import ApacheKafka
    from streams.broker import BrokerFailed
    from streams.kafka_log import KafkaEventLog
    from streams.topics import apply_topics

    logs.configure("warning")
    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise typer.BadParameter("KAFKA_HOME is not set: deploy/kafka/README.md makes it in one command")
    torch.set_num_threads(1)
    recommender = preset_recommender("tiny", [Item(item_id=f"item-{number}") for number in range(items)])
    with tempfile.TemporaryDirectory() as folder:
        try:
            broker = ApacheKafka(Path(home), Path(folder) / "kafka")
            broker.start()
        except BrokerFailed as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from error
        try:
            apply_topics(broker.bootstrap)
            log = KafkaEventLog(broker.bootstrap)
            # The first poll of a loop is not timed: it may bring some thousands.
            fill(log, events + 10_000, users, items)
            log.close()
            connect = lambda: KafkaEventLog(broker.bootstrap)  # noqa: E731
            found = measure(connect, broker.bootstrap, recommender, events, turns, batch_events)
        finally:
            broker.stop()
    rows = [
        ("ingest to tensors", found.ratio, "ratio", 0.8, "the faster of kafka-python's two poll loops"),
        ("trainer's path", median(found.trainer), "events/s", None, ""),
        ("bare poll loop, defaults", median(found.bare), "events/s", None, ""),
        ("bare poll loop, the trainer's settings", median(found.bare_alike), "events/s", None, ""),
    ]
    for name, value, unit, goal, _ in rows:
        typer.echo(f"{name}: {value:,.3f} {unit}" + (f", goal {goal}" if goal else ""), err=True)
    if as_json:
        fields = ("name", "value", "unit", "goal", "baseline")
        out = [{**dict(zip(fields, row, strict=True)), "better": "higher"} for row in rows]
        machine = f"{platform.machine()}, {platform.processor() or platform.system()}"
        print(json.dumps({"command": "bench ingest", "version": 1, "machine": machine, "rows": out}))
