"""`slipstream train`: the online trainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from online_trainer.metrics import TrainerMetrics
    from online_trainer.patience import Patience
    from online_trainer.settings import TrainerSettings

ExcludeSeen = Annotated[
    bool,
    typer.Option(
        "--exclude-seen/--repeat-seen",
        help="Whether what a user has taken is no answer; as the gateway has it.",
    ),
]
PORT_TAKEN, REPLACED, UNFIT, BUSY = 2, 3, 4, 5
"""Exit codes: the metrics' port is taken; another trainer took over; the state, model or log do not fit; the state
folder is in use."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    model: Annotated[str, typer.Option(help="The name to publish under.")],
    model_dir: Annotated[Path, typer.Option(metavar="DIR", help="The pre-trained model's folder.")],
    kafka: Annotated[str, typer.Option(envvar="SLIPSTREAM_KAFKA", metavar="HOST:PORT", help="The Kafka broker.")],
    releases: Annotated[str, typer.Option(metavar="URL", help="The release store: a folder, s3://…, gs://…")],
    state: Annotated[Path, typer.Option(metavar="DIR", help="Checkpoints, journal and ledger; one trainer's own.")],
    train_from: Annotated[
        str,
        typer.Option(
            metavar="begin|end|OFFSETS",
            help="First start: where training begins; events before only fill histories. OFFSETS is a JSON object of "
            "partition to offset.",
        ),
    ] = "end",
    batch_events: Annotated[
        int, typer.Option(help="A batch closes at so many waiting events, a worker's at its share of them …")
    ] = 64,
    linger_seconds: Annotated[float, typer.Option(help="… or once the oldest has waited so long.")] = 0.2,
    publish_seconds: Annotated[float, typer.Option(help="A release at most every so often; 0: not by time.")] = 2.0,
    publish_events: Annotated[int, typer.Option(help="A release every so many events; 0: not by count.")] = 0,
    keep_releases: Annotated[int, typer.Option(help="Newest releases kept, beside those in service.")] = 100,
    anchor_every: Annotated[int, typer.Option(help="Each so many releases stand alone; between, deltas may.")] = 10,
    history_events: Annotated[int, typer.Option(help="Last events kept of each user.")] = 1000,
    dedupe_events: Annotated[int, typer.Option(help="Event ids remembered in each partition.")] = 50_000,
    learning_rate: Annotated[float | None, typer.Option(help="AdamW's; the measured default without.")] = None,
    exclude_seen: ExcludeSeen = True,
    seed: Annotated[int, typer.Option(help="Of what training draws at random; first start only.")] = 0,
    stop_at_end: Annotated[bool, typer.Option("--stop-at-end", help="End at the log's present end.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="torch threads; the same at every start, for the same bits.")] = 1,
    nice: Annotated[int, typer.Option(min=0, max=19, help="How far to give way to serving on the same cores.")] = 10,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes; with more than one an owner beside them.")] = 1,
    owners: Annotated[int, typer.Option(min=1, help="Several workers: processes that share the weights' keeping.")] = 1,
    exchange: Annotated[
        Literal["async", "sync"], typer.Option(help="Several workers: apply each push as it comes, or rounds of all.")
    ] = "async",
    compress: Annotated[
        bool | None,
        typer.Option(help="Several workers: send 2 bits of 64 of each 4096, or bf16; what is measured faster without."),
    ] = None,
    slots: Annotated[int, typer.Option(help="Elements sent of each 4096: 8, 16, 32, 64 or 128.")] = 64,
    local_steps: Annotated[int, typer.Option(min=1, help="Batches a push.")] = 1,
    fragments: Annotated[int, typer.Option(min=1, help="A push carries one of so many parts of the weights.")] = 1,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Of a synchronous group's workers; cuda: a GPU each, by NCCL.")
    ] = "cpu",
    staleness: Annotated[int, typer.Option(min=1, help="Most pushes between a push and the weights behind it.")] = 16,
    lease_seconds: Annotated[float, typer.Option(help="A worker that is silent so long is lost.")] = 5.0,
    listen: Annotated[str, typer.Option(metavar="HOST", help="Several workers: where owners listen.")] = "127.0.0.1",
    listen_port: Annotated[int, typer.Option(help="Owner 0's, the others' behind it; 0: free ones.")] = 0,
    exchange_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="32 random bytes that owners and workers share.")
    ] = None,
    metrics_port: Annotated[int, typer.Option(help="Prometheus endpoint; 0: none.")] = 0,
    metrics_host: Annotated[str, typer.Option(help="Address of the Prometheus endpoint.")] = "127.0.0.1",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Learn from the event log and publish releases, until SIGTERM.

    Exit codes: 0 after SIGTERM or at the log's end, 2 when an option is wrong or --metrics-port is taken, 3 when
    another trainer has taken over, 4 when state, model or log do not fit one another, 5 when another trainer runs on
    --state.
    """
    import os

    from slipstream import logs

    logs.configure(log_level)
    if device != "cpu" and (workers == 1 or exchange != "sync"):
        raise typer.BadParameter("only --workers N --exchange sync trains on GPUs", param_hint="--device")
    if metrics_port:
        from slipstream.metrics_endpoint import PortTaken, require_port

        try:
            require_port(metrics_port, metrics_host)
        except PortTaken as error:
            raise typer.Exit(_refuse(error, PORT_TAKEN)) from error
    settings = _settings(
        model=model,
        state=state,
        train_from=train_from,
        batch_events=batch_events,
        linger_seconds=linger_seconds,
        publish_seconds=publish_seconds,
        publish_events=publish_events,
        keep_releases=keep_releases,
        anchor_every=anchor_every,
        history_events=history_events,
        dedupe_events=dedupe_events,
        stop_at_end=stop_at_end,
        seed=seed,
        learning_rate=learning_rate,
        exclude_seen=exclude_seen,
    )
    if workers > 1:
        import dataclasses
        import signal

        from online_trainer import fault_points
        from online_trainer.exchange.link import require_keys_off_loopback
        from online_trainer.exchange.messages import Rule
        from online_trainer.exchange.sequencer import GroupSettings
        from slipstream.train_group import GroupConfig, Launcher
        from streams.broker import free_port

        try:
            require_keys_off_loopback(f"tcp://{listen}:1", exchange_key)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--listen") from error
        rounds = exchange == "sync"
        if rounds and owners > 1:
            raise typer.BadParameter("a synchronous group has no owners", param_hint="--owners")
        # What one worker would do with a batch, all do with it together.
        share = -(-batch_events // workers)
        gradients = rounds and compress is not False and local_steps == fragments == 1
        recipe = settings.recipe.shared_by(workers, rounds, compressed=gradients)
        settings = dataclasses.replace(settings, recipe=recipe, batch_events=share)
        rule = Rule(
            compressed=compress is not False,
            choose=compress is None,
            slots=slots,
            local_steps=local_steps,
            fragments=fragments,
            average=settings.recipe.average,
        )
        group = GroupSettings(
            staleness_bound=max(staleness, workers),
            staleness_power=rule.staleness_power,
            lease_seconds=lease_seconds,
            batch_events=share,
        )
        if owners > 1 and listen in ("0.0.0.0", "::", "*"):  # noqa: S104 refused
            raise typer.BadParameter(
                f"owners tell workers where the others listen, and {listen} is nowhere: give this machine's address",
                param_hint="--listen",
            )
        ports = [listen_port + number if listen_port else free_port() for number in range(owners)]
        config = GroupConfig(
            settings=settings,
            group=group,
            rule=rule,
            model_dir=model_dir,
            kafka=kafka,
            releases=releases,
            addresses=() if rounds else tuple(f"tcp://{listen}:{port}" for port in ports),
            key=exchange_key,
            threads=threads,
            nice=nice,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
            log_level=log_level,
            device=device,
        )
        launcher = Launcher(config, workers, os.environ.get(fault_points.VARIABLE, ""))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, launcher.stop)
        raise typer.Exit(launcher.run())
    os.nice(nice)
    from online_trainer.metrics import TrainerMetrics
    from online_trainer.patience import Patience

    metrics = TrainerMetrics()
    patience = Patience(metrics)
    _end_on_signals(patience)
    if metrics_port:
        from slipstream.metrics_endpoint import serve_metrics

        serve_metrics(metrics_port, metrics_host, metrics.registry)
    raise typer.Exit(_run(settings, model_dir, kafka, releases, threads, metrics, patience))


def _settings(
    train_from: str, seed: int, learning_rate: float | None, exclude_seen: bool, **given: object
) -> TrainerSettings:
    import msgspec

    from contracts.release import ModelName
    from online_trainer.settings import TrainerSettings, parse_train_from
    from recommender.recipe import ONLINE

    rate = ONLINE.learning_rate if learning_rate is None else learning_rate
    recipe = msgspec.structs.replace(ONLINE, seed=seed, learning_rate=rate, mask_seen=exclude_seen)
    try:
        msgspec.convert(given["model"], ModelName)
        return TrainerSettings(train_from=parse_train_from(train_from), recipe=recipe, **given)  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _end_on_signals(patience: Patience) -> None:
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: patience.stop())


def _run(
    settings: TrainerSettings,
    model_dir: Path,
    kafka: str,
    releases: str,
    threads: int,
    metrics: TrainerMetrics,
    patience: Patience,
) -> int:
    """Train to the end; the exit code."""
    import torch

    from online_trainer.journal import JournalDamaged
    from online_trainer.patience import Stopped
    from online_trainer.start import StateDoesNotFit, start_trainer
    from online_trainer.state import StateInUse
    from recommender.cold_start import title_tokenizer
    from recommender.loading import load_recommender
    from releases.fsspec_store import FsspecReleaseStore
    from releases.store import WriterReplaced
    from slipstream.train_group import ANNOUNCE_SECONDS
    from streams.kafka_log import KafkaEventLog

    def connect() -> KafkaEventLog:
        return KafkaEventLog(kafka, client_id="slipstream-train", delivery_timeout_seconds=ANNOUNCE_SECONDS)

    torch.set_num_threads(threads)
    try:
        store = FsspecReleaseStore(releases)
        recommender = load_recommender(model_dir)
        tokenizer = title_tokenizer(model_dir)
        trainer = start_trainer(settings, recommender, connect, store, metrics, patience, tokenizer)
        try:
            trainer.run()
        finally:
            trainer.close()
    except Stopped:
        return 0
    except WriterReplaced as error:
        return _refuse(error, REPLACED)
    except StateInUse as error:
        return _refuse(error, BUSY)
    except (StateDoesNotFit, JournalDamaged, ValueError, FileNotFoundError) as error:
        return _refuse(error, UNFIT)
    return 0


def _refuse(error: Exception, code: int) -> int:
    typer.echo(f"slipstream train: {error}", err=True)
    return code
