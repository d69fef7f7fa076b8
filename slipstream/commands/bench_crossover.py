"""`slipstream bench crossover`: the link's rate at which compressing an exchange begins to pay, and what is chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from online_trainer.exchange.bench_crossover import Link


def register(app: typer.Typer) -> None:
    """Add the command to the group `bench`, which `bench.py` has added."""
    group = next(found.typer_instance for found in app.registered_groups if found.name == "bench")
    assert group is not None, "bench.py registers a group"  # noqa: S101
    group.command("crossover")(crossover)


def crossover(
    size: Annotated[float, typer.Option(help="Elements of the gradient.")] = 5e4,
    large: Annotated[float, typer.Option(help="Elements of the one that is exchanged at 1 Gb/s; 0: none.")] = 4e6,
    workers: Annotated[int, typer.Option(min=2, help="Ranks.")] = 2,
    turns: Annotated[int, typer.Option(min=1, help="Exchanges of either encoding; lower quartiles count.")] = 200,
    cap: Annotated[
        list[float] | None, typer.Option(help="A link's rate in Gb/s; 0 is plain loopback. Several times: several.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Elements sent of each 4096.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Exchange a gradient synchronously over capped links, dense bf16 and compressed in turn, and let the ranks choose.

    The links are a network namespace's loopback, capped by `tc`: Linux, with util-linux and iproute2.
    """
    import json
    import platform

    from rich.console import Console
    from rich.table import Table

    from online_trainer.exchange.bench_crossover import crossover_gigabits, measure_link
    from online_trainer.exchange.messages import Rule

    rule = Rule(slots=slots)
    table = Table(title=f"one synchronous exchange, {workers} ranks, milliseconds: total (encode + link + decode)")
    for column in ("elements", "link", "dense bf16", "compressed", "chosen", "chosen / faster"):
        table.add_column(column)
    asked = [(int(size), rate, turns) for rate in (cap or [0.0, 10.0, 3.0, 1.0, 0.3, 0.1])]
    if large:
        asked.append((int(large), 1.0, max(5, turns // 10)))
    links: list[Link] = []
    rows: list[dict[str, Any]] = []
    for elements, rate, count in asked:
        link = measure_link(elements, workers, count, rule, rate)
        table.add_row(*_cells(elements, link))
        rows += _rows(elements, link)
        if elements == int(size):
            links.append(link)
    turned = crossover_gigabits(links)
    console = Console(width=140)
    console.print(table)
    console.print(f"crossover: {turned:.2f} Gb/s" if turned else "no crossover between these links")
    rows.append({"name": f"crossover, {int(size):,}", "value": turned, "unit": "Gb/s", "goal": None, "baseline": ""})
    if as_json:
        machine = f"{platform.machine()}, {platform.processor() or platform.system()}"
        print(json.dumps({"command": "bench crossover", "version": 1, "machine": machine, "rows": rows}))


def _name(link: Link) -> str:
    return f"{link.gigabits:g} Gb/s" if link.gigabits else "loopback"


def _said(link: Link) -> str:
    return {True: "compressed", False: "dense", None: "nothing"}[link.chosen_compressed]


def _cells(elements: int, link: Link) -> list[str]:
    parts = [
        f"{1000 * e.total_seconds:.2f} ({1000 * e.encode_seconds:.2f} + {1000 * e.link_seconds:.2f}"
        f" + {1000 * e.decode_seconds:.2f})"
        for e in (link.dense, link.compressed)
    ]
    return [f"{elements:,}", _name(link), *parts, _said(link), f"{link.lost:.2f}"]


def _rows(elements: int, link: Link) -> list[dict[str, Any]]:
    """A link's times, which encoding was chosen, and how much that lost."""
    where = f"{_name(link)}, {elements:,}"
    found: list[tuple[str, float | bool | None, str, float | None, str]] = [
        (f"exchange speed-up, {where}", link.gain, "ratio", 4.0 if elements > 1e6 else None, "dense bf16"),
        (f"chosen, {where}", link.chosen_compressed, "true: compressed", None, ""),
        # As much as the choice's own margin may be lost by it.
        (f"chosen over the faster, {where}", link.lost, "ratio", 1.1, ""),
    ]
    for name, one in (("dense", link.dense), ("compressed", link.compressed)):
        found += [
            (f"{name} {part}, {where}", 1000 * getattr(one, f"{part}_seconds"), "ms", None, "")
            for part in ("total", "encode", "link", "decode")
        ]
    return [dict(zip(("name", "value", "unit", "goal", "baseline"), row, strict=True)) for row in found]
