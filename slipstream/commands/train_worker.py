"""`slipstream train-worker`: one more worker for a group, on this machine or another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slipstream.commands.train import ExcludeSeen


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-worker")(train_worker)


def train_worker(
    join: Annotated[str, typer.Option(metavar="tcp://HOST:PORT", help="Where owner 0 of the group listens.")],
    model: Annotated[str, typer.Option(help="The name the group publishes under.")],
    model_dir: Annotated[Path, typer.Option(metavar="DIR", help="The pre-trained model's folder, as the owners'.")],
    kafka: Annotated[str, typer.Option(envvar="SLIPSTREAM_KAFKA", metavar="HOST:PORT", help="The Kafka broker.")],
    number: Annotated[int, typer.Option(min=0, help="Another one for each worker of the group; names it.")],
    workers: Annotated[
        int, typer.Option(min=1, help="How many share the stream: each replays a share of the past.")
    ] = 2,
    exclude_seen: ExcludeSeen = True,
    exchange_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="32 random bytes that owners and workers share.")
    ] = None,
    linger_seconds: Annotated[
        float, typer.Option(help="A batch closes once its oldest event has waited so long.")
    ] = 0.2,
    threads: Annotated[int, typer.Option(min=1, help="torch threads.")] = 1,
    nice: Annotated[int, typer.Option(min=0, max=19, help="How far to give way to others on the same cores.")] = 10,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Join a group, train what it is given, until SIGTERM or until the group ends.

    Exit codes: 0 after SIGTERM or with the group, 4 when model, layout or version are not the group's.
    """
    import msgspec

    from online_trainer.exchange.link import require_keys_off_loopback
    from slipstream.train_group import GroupConfig, run_in_this_process, run_worker

    try:
        require_keys_off_loopback(join, exchange_key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--join") from error
    from online_trainer.exchange.messages import Rule
    from online_trainer.exchange.sequencer import GroupSettings
    from online_trainer.settings import TrainerSettings
    from recommender.recipe import ONLINE

    recipe = msgspec.structs.replace(ONLINE, mask_seen=exclude_seen).shared_by(workers)
    config = GroupConfig(
        settings=TrainerSettings(model=model, state=Path(), linger_seconds=linger_seconds, recipe=recipe),
        group=GroupSettings(),
        rule=Rule(),
        model_dir=model_dir,
        kafka=kafka,
        releases="",
        addresses=(join,),
        key=exchange_key,
        threads=threads,
        nice=nice,
        log_level=log_level,
    )
    raise typer.Exit(run_in_this_process(run_worker, config, number))
