"""`slipstream bench exchange`: what compressing gains on links of several rates."""

from __future__ import annotations

from typing import Annotated, Any

import typer

LOOPBACK = 100.0
"""Gb/s that the choice takes plain loopback for."""


def register(app: typer.Typer) -> None:
    """Add the command to the group `bench`, which `bench.py` has added."""
    group = next(found.typer_instance for found in app.registered_groups if found.name == "bench")
    assert group is not None, "bench.py registers a group"  # noqa: S101
    group.command("exchange")(exchange)


def exchange(
    size: Annotated[float, typer.Option(help="Elements of the model.")] = 8e6,
    workers: Annotated[int, typer.Option(min=2, help="Workers that push at once.")] = 2,
    pushes: Annotated[int, typer.Option(min=1, help="Timed pushes of each worker.")] = 5,
    cap: Annotated[
        list[float] | None, typer.Option(help="A link's rate in Gb/s; 0 is plain loopback. Several times: several.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Elements sent of each 4096.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Push dense bf16 and compressed updates over capped links; encode, link and decode apart.

    A cap needs toxiproxy on the PATH or in $SLIPSTREAM_TOXIPROXY.
    """
    import json
    import platform

    from rich.console import Console
    from rich.table import Table

    from slipstream import logs

    logs.configure("warning")
    from online_trainer.exchange.bench import both_rules, measure_exchange, toxiproxy_binary
    from online_trainer.exchange.choice import crossover_bytes_per_second, measure
    from online_trainer.exchange.messages import Rule
    from streams.broker import free_port

    caps = cap if cap is not None else [0.0, 10.0, 1.0, 0.1]
    if any(caps) and toxiproxy_binary() is None:
        raise typer.BadParameter("needs toxiproxy, on the PATH or in $SLIPSTREAM_TOXIPROXY", param_hint="--cap")
    elements, rules = int(size), both_rules(Rule(slots=slots))
    costs = {name: measure(rule, elements) for name, rule in rules.items()}
    crossover = 8e-9 * crossover_bytes_per_second(costs["dense"], costs["compressed"], workers)
    table = Table(title=f"one exchange of {elements:,} elements, {workers} workers, milliseconds")
    for column in ("link", "encoding", "total", "encode", "link + owner", "decode", "pushed bytes", "pulled bytes"):
        table.add_column(column, justify="left" if column in ("link", "encoding") else "right")
    rows: list[dict[str, Any]] = []
    for rate in caps:
        link = f"{rate:g} Gb/s" if rate else "loopback"
        totals = {}
        for name, rule in rules.items():
            found = measure_exchange(rule, elements, workers, pushes, rate * 1e9 / 8, free_port)
            totals[name] = found
            parts = (found.total_seconds, found.encode_seconds, found.link_seconds, found.decode_seconds)
            table.add_row(
                link,
                name,
                *(f"{1000 * part:.1f}" for part in parts),
                f"{found.pushed_bytes:,.0f}",
                f"{found.pulled_bytes:,.0f}",
            )
        rows += _rows(link, rate, totals, elements, crossover)
    console = Console(width=140)
    console.print(table)
    console.print(f"predicted crossover: {crossover:.2f} Gb/s; above it dense is chosen")
    if as_json:
        machine = f"{platform.machine()}, {platform.processor() or platform.system()}"
        print(json.dumps({"command": "bench exchange", "version": 1, "machine": machine, "rows": rows}))


def _rows(link: str, rate: float, totals: dict[str, Any], elements: int, crossover: float) -> list[dict[str, Any]]:
    dense, compressed = totals["dense"], totals["compressed"]
    gain = dense.total_seconds / compressed.total_seconds
    chosen = "compressed" if (rate or LOOPBACK) < crossover else "dense"
    faster = "compressed" if gain > 1 else "dense"
    goal = 4.0 if rate == 1.0 else None
    baseline = "dense bf16"

    def row(name: str, value: float, unit: str, goal: float | None, baseline: str) -> dict[str, Any]:
        return {
            "name": f"{name}, {link}", "value": round(value, 4), "unit": unit, "goal": goal, "better": "higher",
            "baseline": baseline,
        }  # fmt: skip

    rows = [
        row("exchange speed-up", gain, "ratio", goal, baseline),
        row("choice is the faster", float(chosen == faster), "bool", 1.0, ""),
    ]
    rows.append(row("push bytes saved", 4 * elements / compressed.pushed_bytes, "ratio", 200.0, "fp32"))
    rows.append(row("pull bytes saved", 4 * elements / max(1.0, compressed.pulled_bytes), "ratio", 20.0, "fp32"))
    for name, found in totals.items():
        for part in ("total", "encode", "link", "decode"):
            value = 1000 * getattr(found, f"{part}_seconds")
            rows.append({**row(f"{name} {part}", value, "ms", None, ""), "better": "lower"})
    return rows
