"""`slipstream eval async`: does quality hold when workers do not wait for one another, and send little."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the group `eval`, which `eval.py` has added."""
    group = next(found.typer_instance for found in app.registered_groups if found.name == "eval")
    assert group is not None, "eval.py registers a group"  # noqa: S101
    group.command("async")(asynchronous)
    group.command("async-plot")(plot_curves)


EPOCHS = 1.0
"""Of the model that starts: two leave it above 0.98 of every end from the start."""


def asynchronous(
    model_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pre-trained on the first 80 %; else one epoch is made.")
    ] = None,
    dataset: Annotated[str, typer.Option("--dataset", "-d", help="What the model was pre-trained on.")] = "ml-100k",
    data: Annotated[
        Path | None, typer.Option("--data", envvar="SLIPSTREAM_DATA", metavar="PATH", help="Where it lies.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Replay orders and draws; runs are paired by them.")] = 5,
    events: Annotated[int, typer.Option(help="The backlog that is trained, from the split on.")] = 12_000,
    test_events: Annotated[int, typer.Option(help="Events behind it that the weights are scored on.")] = 3_000,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Finished runs; a later call goes on.")] = Path(
        ".slipstream/eval/async"
    ),
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="NDCG against time, as a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Two and three workers, synchronous and not, dense and compressed, with and without a straggler; in virtual time.

    Virtual: a batch takes time in proportion to its events and its worker's slowness; all else is the trainer's code.
    """
    import json
    import os
    import platform

    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    import torch
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from catalogue.datasets import load
    from catalogue.replay import split, timeline
    from evaluation import group_report
    from recommender.loading import load_recommender
    from slipstream.cached_model import PretrainingFailed, cached_model
    from slipstream.paths import cache_dir

    torch.set_num_threads(1)
    try:
        folder = model_dir or cached_model(cache_dir(), dataset, data, EPOCHS)
    except PretrainingFailed as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    found = load(dataset, data)
    console = Console(width=120)
    results: group_report.Results = {}
    chosen = group_report.runs()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("runs", total=seeds * len(chosen))
        for seed in range(seeds):
            line = timeline(found, seed=seed)
            start = len(split(line, 0.8)[0])
            stop = len(split(line, min(1.0, (start + events) / len(line)))[0])
            end = min(len(line), stop + test_events)
            for run in chosen:
                progress.update(task, description=f"seed {seed}, {run.name}")
                made = group_report.kept(
                    out / group_report.file_name(run, folder.name, seed, events, test_events),
                    lambda run=run, seed=seed, line=line[:end], start=start, stop=stop: group_report.train(  # type: ignore[misc]
                        lambda: load_recommender(folder), line, start, stop, run, seed
                    ),
                )
                results.setdefault(run.name, []).append(made)
                progress.advance(task)
    rows = group_report.rows(results)
    table = Table(title=f"{dataset}: {events:,} events trained, {test_events:,} scored, {seeds} seeds")
    for column in ("what", "value", "goal", "against"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["name"], f"{row['value']:.4f}", "" if row["goal"] is None else f"≥ {row['goal']}", row["baseline"]
        )
    console.print(table)
    if plot is not None:
        group_report.plot(group_report.curves(results), plot)
    if as_json:
        machine = f"{platform.machine()}, {platform.system()}"
        curves = {name: {"seconds": c.seconds, "ndcg": c.ndcg} for name, c in group_report.curves(results).items()}
        print(json.dumps({"command": "eval async", "version": 1, "machine": machine, "rows": rows, "curves": curves}))


def plot_curves(
    found: Annotated[Path, typer.Argument(metavar="JSON", exists=True, dir_okay=False, help="What --json printed.")],
    picture: Annotated[Path, typer.Argument(metavar="FILE", help="The picture to write, e.g. async.png.")],
) -> None:
    """Draw NDCG against time from the JSON of `slipstream eval async`: no run is repeated."""
    from evaluation import group_report

    try:
        group_report.plot(group_report.read_curves(found), picture)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="JSON") from error
