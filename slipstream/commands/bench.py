"""`slipstream bench`: measurements that end with one JSON line; `bench kernels` is the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

_OPS = "compress, decompress_accumulate, apply, delta, topk_logits, wire"


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Measure parts of the system.", no_args_is_help=True)
    group.command("kernels")(kernels)
    group.callback()(lambda: None)
    app.add_typer(group, name="bench")


def kernels(
    device: Annotated[str, typer.Option(help="cuda or cpu; by default a GPU where there is one.")] = "",
    size: Annotated[
        float, typer.Option(help="Elements of the largest case; by default 1e9 on a GPU, 1e8 on a CPU.")
    ] = 0,
    op: Annotated[list[str] | None, typer.Option(help=f"Only these ops; any of {_OPS}.")] = None,
    runs: Annotated[int, typer.Option(min=3, help="Timed runs of each op; the median is reported.")] = 20,
    dataset: Annotated[
        str, typer.Option(help="Record a gradient of the recommender on this data set; empty: none.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Also write OUT.json, OUT.md with verdicts and limits, and OUT.png.")
    ] = None,
    json_only: Annotated[bool, typer.Option("--json", help="Only the JSON line on stdout, no table.")] = False,
) -> None:
    """Run each op's tests, refuse to time an op whose tests are red, and time the others."""
    import json

    import torch

    try:
        from kernels.bench.runner import OPS, RefusedToTime, run
    except ImportError as error:
        typer.echo(f"Error: {error}; pip install 'slipstream-rec[kernels]'", err=True)
        raise typer.Exit(1) from error
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise typer.BadParameter(f"{device!r}: cpu, or cuda where PyTorch sees an NVIDIA GPU", param_hint="--device")
    if unknown := set(op or ()) - set(OPS):
        raise typer.BadParameter(f"no op {sorted(unknown)[0]!r}; choose from {', '.join(OPS)}", param_hint="--op")
    if out is not None:
        # Before minutes of timing, not behind them.
        out.parent.mkdir(parents=True, exist_ok=True)
    elements = int(size) or (10**9 if device == "cuda" else 10**8)
    gradient = recorded_gradient(dataset) if dataset else None
    try:
        document = run(
            op or list(OPS), device, elements, runs, gradient, report=lambda line: typer.echo(line, err=True)
        )
    except RefusedToTime as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    if out is not None:
        _write(document, out, device, _command(device, size, op, runs, dataset, out))
    if not json_only:
        _print_table(document)
    typer.echo(json.dumps(document))


def recorded_gradient(dataset: str, path: Path | None = None) -> torch.Tensor:
    """The flat bf16 gradient of one online batch (100 events) of a `tiny` recommender over `dataset`'s items."""
    import torch

    from catalogue.datasets import load
    from catalogue.replay import timeline
    from recommender.examples import Interaction, UserUpdate, online_batch
    from recommender.initialise import preset_recommender
    from recommender.training import online_loss

    data = load(dataset, path)
    recommender = preset_recommender("tiny", data.items)
    histories: dict[str, list[Interaction]] = {}
    for number, event in enumerate(timeline(data, seed=0)):
        histories.setdefault(event.user_id, []).append(Interaction(event.item_id, event.timestamp))
        if number == 20_000:
            break
    longest = sorted(histories.values(), key=len, reverse=True)[:20]
    batch = online_batch(recommender, [UserUpdate(events[:-5], events[-5:]) for events in longest])
    online_loss(recommender, batch).backward()  # type: ignore[no-untyped-call]
    parts = [p.grad.reshape(-1) for p in recommender.model.parameters() if p.grad is not None]
    return torch.cat(parts).to(torch.bfloat16)


def _goal(row: dict) -> str:  # type: ignore[type-arg]
    sign = "≥" if row["better"] == "higher" else "≤"
    return "" if row["goal"] is None else f"{sign} {row['goal']:g}"


def _command(device: str, size: float, op: list[str] | None, runs: int, dataset: str, out: Path) -> str:
    """The command line that repeats a run, defaults left out."""
    parts = ["slipstream bench kernels --device", device]
    parts += [f"--size {size:g}"] if size else []
    parts += [f"--op {name}" for name in op or ()]
    parts += [f"--runs {runs}"] if runs != 20 else []
    parts += [f"--dataset {dataset}"] if dataset else []
    return " ".join([*parts, f"--out {out}"])


def _write(document: dict[str, Any], out: Path, device: str, command: str) -> None:
    """OUT.json, OUT.md and, where matplotlib is installed, OUT.png."""
    import importlib.util
    import json

    from kernels.bench.plot import draw
    from kernels.bench.report import markdown

    # Not `with_suffix`: a name like `2026.11-kernels` has a dot of its own.
    json_path, table_path, plot_path = (out.with_name(out.name + suffix) for suffix in (".json", ".md", ".png"))
    json_path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot = None
    if importlib.util.find_spec("matplotlib") is not None:
        draw(plot_path, [document])
        plot = plot_path.name
    table_path.write_text(markdown(document, device, command, plot), encoding="utf-8")


def _print_table(document: dict) -> None:  # type: ignore[type-arg]
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"kernels on {document['machine']['device']}")
    for column in ("what", "measured", "goal"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in document["rows"]:
        table.add_row(row["name"], f"{row['value']:.4g} {row['unit']}", _goal(row))
    Console(width=140).print(table)
