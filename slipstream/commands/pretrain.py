"""`slipstream pretrain`: train a recommender on the past, resumable, with a progress bar."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipstream.commands.init import DataPath, DatasetName, Out

if TYPE_CHECKING:
    from catalogue.datasets import Dataset
    from recommender.loading import Recommender
    from recommender.pretrain import Progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pretrain")(pretrain)


def pretrain(
    out: Out,
    dataset: DatasetName = "ml-100k",
    data: DataPath = None,
    preset: Annotated[str | None, typer.Option(help="tiny, small or base; `tiny` when --model is not given.")] = None,
    model: Annotated[Path | None, typer.Option(metavar="DIR", help="Start from this folder of `init`.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0, help="Passes over the past; the recipe's by default.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="As many passes as take about this long.")] = None,
    until: Annotated[float, typer.Option(min=0.01, max=1, help="The past: this share of the timeline.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Of weights, windows and dropout.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of a killed run.")] = False,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")] = 0,
) -> None:
    """Pre-train on the first 80 % of a data set's timeline and write the model folder."""
    if preset is not None and model is not None:
        raise typer.BadParameter("give one of --preset and --model")
    if epochs is not None and seconds is not None:
        raise typer.BadParameter("give one of --epochs and --seconds")
    # Threads that spin while they wait cost ten times a step's time when anything else wants the cores (0.74 against
    # 0.07 s on 2 busy ones); libgomp reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import msgspec
    import torch

    from catalogue.datasets import DataError, load
    from catalogue.replay import split, timeline
    from recommender.loading import save_recommender
    from recommender.pretrain import Pretrainer, counted
    from recommender.pretrain import pretrain as run
    from recommender.recipe import PRETRAIN

    if threads:
        torch.set_num_threads(threads)
    checkpoints = out / "checkpoint"
    started = time.monotonic()
    try:
        source = load(dataset, data)
        settings = msgspec.structs.replace(
            PRETRAIN,
            epochs=PRETRAIN.epochs if epochs is None else epochs,
            mask_seen=not source.repeats,
            seed=seed,
        )
        past = split(timeline(source, seed), until)[0]
        recommender = _start(source, preset, model, seed)
        trainer = Pretrainer(recommender, past, settings)
        if resume and not trainer.resume(checkpoints):
            typer.echo(f"no checkpoint in {checkpoints}: starting anew", err=True)
    except (DataError, ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(2) from error
    with _bar(dataset) as on_step:
        run(trainer, checkpoints, seconds, on_step=on_step)
    if model is not None:
        _copy_tokenizer(model, out)
    save_recommender(counted(recommender, past), out)
    print(f"{out}: {trainer.step:,} steps, {trainer.epoch:.1f} epochs, {time.monotonic() - started:.0f} s")


def _start(source: Dataset, preset: str | None, model: Path | None, seed: int) -> Recommender:
    from recommender.initialise import preset_recommender
    from recommender.loading import load_recommender

    if model is not None:
        return load_recommender(model)
    return preset_recommender(preset or "tiny", source.items, seed)


def _copy_tokenizer(model: Path, out: Path) -> None:
    """A base model's tokenizer goes along: later items start from their titles' tokens."""
    import shutil

    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (model / name).exists() and model.resolve() != out.resolve():
            shutil.copy2(model / name, out / name)


@contextmanager
def _bar(dataset: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.completed:.1f} of {task.total:.1f}, loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"pre-training on {dataset}", total=1.0, loss=float("nan"))
        yield lambda now: bar.update(task, completed=now.epoch, total=now.epochs, loss=now.loss)
