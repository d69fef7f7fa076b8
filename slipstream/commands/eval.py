"""`slipstream eval`: does it recommend well, and does learning online pay."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from evaluation.choices import Protocol
    from evaluation.session import Results, Session

DatasetName = Annotated[str, typer.Option("--dataset", "-d", help="A data set; `slipstream data list` has the names.")]
DataPath = Annotated[Path | None, typer.Option("--data", metavar="PATH", help="Where it lies; else $SLIPSTREAM_DATA.")]
Seeds = Annotated[int, typer.Option(min=1, help="Runs of every method, each with its own weights and replay order.")]
Device = Annotated[str, typer.Option(help="Where models run: cpu or cuda.")]
Methods = Annotated[str, typer.Option(help="Only these, comma-separated; all when left out.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Results, choices and the log of opened configurations.")]
Choose = Annotated[bool, typer.Option(help="Try settings on 70-80 % of the timeline that were not tried yet.")]
Starts = Annotated[
    str, typer.Option(help="How the retrained model starts: scratch, warm, or both and the better one counts.")
]
Jobs = Annotated[int, typer.Option(min=1, help="Trials and runs side by side, each its own process.")]
PageFile = Annotated[Path | None, typer.Option(metavar="MD", help="Write tables, goals and choices as a page, too.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 leaves it to torch.")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]

group = typer.Typer(help="Measure recommendation quality by an honest protocol; resumable.", no_args_is_help=True)
DEFAULT_OUT = Path(".slipstream/eval")


def register(app: typer.Typer) -> None:
    """Add the group to the command."""
    app.add_typer(group, name="eval")


@group.command("offline")
def offline(
    dataset: DatasetName = "ml-100k",
    split: Annotated[Literal["time-split", "leave-one-out"], typer.Option(help="What is held out.")] = "time-split",
    data: DataPath = None,
    seeds: Seeds = 5,
    device: Device = "cpu",
    methods: Methods = "",
    out: Out = DEFAULT_OUT,
    choose: Choose = True,
    jobs: Jobs = 1,
    threads: Threads = 0,
    page: PageFile = None,
    as_json: AsJson = False,
) -> None:
    """Nobody learns after the split: baselines, SASRec and ours on the last 20 %, or on each user's last item."""
    session = _session(split, dataset, data, seeds, device, methods, out, choose, jobs, threads)
    _write(session, _evaluate(session), page, None, as_json)


@group.command("prequential")
def prequential(
    dataset: DatasetName = "ml-100k",
    data: DataPath = None,
    seeds: Seeds = 5,
    device: Device = "cpu",
    methods: Methods = "",
    out: Out = DEFAULT_OUT,
    choose: Choose = True,
    retrain_start: Starts = "scratch,warm",
    jobs: Jobs = 1,
    threads: Threads = 0,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw NDCG@10 over the stream.")] = None,
    page: PageFile = None,
    as_json: AsJson = False,
) -> None:
    """Test, then train, through the last 20 %: baselines, SASRec, ours frozen, online and retrained ten times."""
    session = _session("prequential", dataset, data, seeds, device, methods, out, choose, jobs, threads, retrain_start)
    results = _evaluate(session)
    if plot is not None:
        from evaluation.plots import plot_stream

        plot_stream(f"{dataset}: test, then train", next(iter(results.tables.values())), plot)
    _write(session, results, page, plot, as_json)


@group.command("drift")
def drift(
    dataset: DatasetName = "ml-100k",
    data: DataPath = None,
    seeds: Seeds = 5,
    device: Device = "cpu",
    out: Out = DEFAULT_OUT,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Half-way through the last 20 % half the users turn: how many events until 90 % of the loss is regained."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from catalogue.datasets import DataError, load
    from evaluation.drift_run import drift_rows, regained_by_seed

    if threads:
        torch.set_num_threads(threads)
    try:
        source = load(dataset, data)
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    with Console(stderr=True).status(dataset) as status:
        found = regained_by_seed(
            source, seeds, torch.device(device), out, lambda text: status.update(f"{dataset}: {text}")
        )
    table = Table("", "NDCG@10 without a turn", "lowest after it", "events to regain 90 %", title=f"{dataset}: drift")
    for seed, rows in enumerate(found):
        for row in rows:
            table.add_row(
                f"{row.scorer}, seed {seed}", f"{row.before:.4f}", f"{row.low:.4f}", str(row.events or "never")
            )
    Console().print(table)
    if as_json:
        command = f"eval drift --dataset {dataset} --seeds {seeds}"
        machine = f"{platform.machine()} {device}"
        print(json.dumps({"command": command, "version": _version(), "machine": machine, "rows": drift_rows(found)}))


def _session(
    protocol: Protocol,
    dataset: str,
    data: Path | None,
    seeds: int,
    device: str,
    methods: str,
    out: Path,
    choose: bool,
    jobs: int,
    threads: int,
    starts: str = "scratch,warm",
) -> Session:
    from catalogue.datasets import DataError, load
    from evaluation.session import Session

    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    begin = tuple(start for start in ("scratch", "warm") if start in starts.split(","))
    if not begin:
        raise typer.BadParameter("give scratch, warm or both, comma-separated", param_hint="--retrain-start")
    try:
        found = load(dataset, data)
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    return Session(found, protocol, seeds, device, out, data, names, choose, begin, jobs, threads)


def _evaluate(session: Session) -> Results:
    """Made or read, and shown."""
    from evaluation.session import evaluate
    from evaluation.stages import AlreadyOpened

    try:
        with _signs_of_life(session) as (on_text, on_progress):
            results = evaluate(session, on_text, on_progress)
    except (ValueError, LookupError, AlreadyOpened) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    _print(session, results)
    return results


def _print(session: Session, results: Results) -> None:
    from rich.console import Console

    from evaluation.tables import flops_line, goals_table, metrics_table

    console = Console()
    for title, records in results.tables.items():
        console.print(metrics_table(f"{session.dataset.name}, {session.protocol}, {title}", records))
    if results.verdicts:
        console.print(goals_table(results.verdicts))
    if line := flops_line(results.flops):
        console.print(line)


def _write(session: Session, results: Results, page: Path | None, plot: Path | None, as_json: bool) -> None:
    """What was asked for beside the tables; the JSON line comes last."""
    if page is not None:
        from evaluation.page import write_page

        write_page(session, results, page, plot)
    if as_json:
        print(json.dumps(_json(session, results)))


def _json(session: Session, results: Results) -> dict[str, Any]:
    from evaluation.page import command
    from evaluation.tables import flops_rows, json_rows

    rows = []
    for number, (title, records) in enumerate(results.tables.items()):
        rows += json_rows(title.replace(" ", "_"), records, results.verdicts if number == 0 else [])
    rows += flops_rows(results.flops)
    return {
        "command": command(session).removeprefix("slipstream "),
        "version": _version(),
        "machine": f"{platform.machine()} {session.device}",
        "rows": rows,
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("slipstream-rec")
    except PackageNotFoundError:
        return "source tree"


@contextmanager
def _signs_of_life(session: Session) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """What is being done now, and how many events have been asked for, on stderr."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,.0f} events asked"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(session.dataset.name, total=None)
        yield (
            lambda text: bar.update(task, description=f"{session.dataset.name}: {text}"),
            lambda events: bar.advance(task, events),
        )
