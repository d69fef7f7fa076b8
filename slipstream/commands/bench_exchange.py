"""`slipstream bench exchange`: what compressing gains on links of several rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from online_trainer.exchange.bench import Chosen, ExchangeCost
    from online_trainer.exchange.choice import Costs
    from online_trainer.exchange.messages import Rule


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
    steps: Annotated[
        int, typer.Option(help="Turns, of three counted steps, of our synchronous exchange and DDP's; 0: none.")
    ] = 20,
    slots: Annotated[int, typer.Option(help="Elements sent of each 4096.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Push dense bf16 and compressed updates over capped links; encode, link and decode apart; which is chosen.

    First, steps of a model of --size elements with our synchronous exchange beside DistributedDataParallel's. A cap
    needs toxiproxy on the PATH or in $SLIPSTREAM_TOXIPROXY.
    """
    import json
    import os
    import platform

    # `online_trainer.exchange.bench_ranks.one_thread` says why; before torch and numba are there to read them.
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    from rich.console import Console
    from rich.table import Table

    from slipstream import logs

    logs.configure("warning")
    from online_trainer.exchange.bench import both_rules, measure_choice, measure_exchange, toxiproxy_binary
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
    rounds = Table(title=f"one step of {elements:,} elements, synchronous, over the same links, milliseconds")
    for column in ("link", "exchange", "step", "hidden", "exposed"):
        rounds.add_column(column, justify="left" if column in ("link", "exchange") else "right")
    console = Console(width=140)
    rows = _step_rows(elements, workers, steps, Rule(slots=slots), console) if steps else []
    for rate in caps:
        link = f"{rate:g} Gb/s" if rate else "loopback"
        totals = {}
        for name, rule in rules.items():
            found = measure_exchange(rule, elements, workers, pushes, rate * 1e9 / 8, free_port)
            totals[name] = found
            parts = (found.total_seconds, found.encode_seconds, found.link_seconds, found.decode_seconds)
            table.add_row(
                link if name == "dense" else "",
                name,
                *(f"{1000 * part:.1f}" for part in parts),
                f"{found.pushed_bytes:,.0f}",
                f"{found.pulled_bytes:,.0f}",
            )
        chosen = measure_choice(Rule(slots=slots), elements, workers, rate * 1e9 / 8, free_port)
        table.add_row("", f"chosen: {'compressed' if chosen.compressed else 'dense'}", end_section=True)
        if steps:
            rows += _synchronous_rows(link, rate, elements, workers, steps, Rule(slots=slots), rounds)
        rows += _rows(link, rate, totals, elements, chosen)
    console.print(table)
    if steps:
        console.print(rounds)
    dense, compressed = costs["dense"], costs["compressed"]
    console.print(_sum(dense, compressed, workers, crossover))
    rows.append(_row("predicted crossover, sockets and owner free", crossover, "Gb/s", None, ""))
    if as_json:
        machine = f"{platform.machine()}, {platform.processor() or platform.system()}"
        print(json.dumps({"command": "bench exchange", "version": 1, "machine": machine, "rows": rows}))


def _sum(dense: Costs, compressed: Costs, workers: int, crossover: float) -> str:
    saved = workers * (dense.num_bytes - compressed.num_bytes)
    extra = (compressed.encode_seconds - dense.encode_seconds) + workers * (
        compressed.decode_seconds - dense.decode_seconds
    )
    return (
        f"compressing costs {1000 * (compressed.encode_seconds - dense.encode_seconds):.2f} ms more to encode and "
        f"{1000 * (compressed.decode_seconds - dense.decode_seconds):.2f} ms more to decode, {workers} times: "
        f"{1000 * extra:.2f} ms. It saves {saved:,} bytes. {8e-9 * saved:.4f} Gb / {1000 * extra:.2f} ms: on a link "
        f"above {crossover:.2f} Gb/s dense would be the faster one if sockets and the owner cost nothing."
    )


def _step_rows(elements: int, workers: int, turns: int, rule: Rule, console: Console) -> list[dict[str, Any]]:
    """Steps by kind of exchange."""
    from rich.table import Table

    from online_trainer.exchange.bench_ddp import DDP, DENSE, measure_steps

    found = measure_steps(elements, workers, turns, rule)
    table = Table(title=f"one step of {elements:,} elements, {workers} workers, milliseconds")
    for column in ("exchange", "step", "hidden", "exposed"):
        table.add_column(column, justify="left" if column == "exchange" else "right")
    rows = [
        _row("dense synchronous step", found[DENSE].median / found[DDP].median, "ratio", 1.05, "plain DDP", "lower")
    ]
    for kind, times in found.items():
        parts = {"step": times.median, "hidden": times.hidden_seconds, "exposed": times.exposed_seconds}
        known = {name: 1000 * seconds for name, seconds in parts.items() if seconds == seconds}
        table.add_row(kind, *(f"{known[name]:.2f}" if name in known else "" for name in parts))
        rows += [_row(f"{kind}, {name}", value, "ms", None, "", "lower") for name, value in known.items()]
    console.print(table)
    return rows


def _synchronous_rows(
    link: str, rate: float, elements: int, workers: int, turns: int, rule: Rule, table: Table
) -> list[dict[str, Any]]:
    """Steps with either encoding on a link, and what ranks choose by themselves."""
    from online_trainer.exchange.bench_ddp import CHOSEN, COMPRESSED, DENSE, measure_steps

    found = measure_steps(elements, workers, turns, rule, (DENSE, COMPRESSED, CHOSEN), rate * 1e9 / 8)
    taken = found[CHOSEN].compressed
    for kind, times in found.items():
        said = f"chosen: {'compressed' if taken else 'dense'}" if kind == CHOSEN else kind
        parts = (times.median, times.hidden_seconds, times.exposed_seconds)
        last = kind == CHOSEN
        table.add_row(link if kind == DENSE else "", said, *(f"{1000 * s:.1f}" for s in parts), end_section=last)
    mine, other = (COMPRESSED, DENSE) if taken else (DENSE, COMPRESSED)
    rows = [
        _row(f"synchronous chosen, {link}", float(bool(taken)), "1 compressed, 0 dense", None, ""),
        _row(
            f"synchronous, the other over the chosen, {link}",
            found[other].median / found[mine].median,
            "ratio",
            0.9,
            "",
        ),
    ]
    return rows + [
        _row(f"synchronous {kind} step, {link}", 1000 * found[kind].median, "ms", None, "", "lower")
        for kind in (DENSE, COMPRESSED)
    ]


def _row(
    name: str, value: float, unit: str, goal: float | None, baseline: str, better: str = "higher"
) -> dict[str, Any]:
    return {
        "name": name, "value": round(value, 4), "unit": unit, "goal": goal, "better": better, "baseline": baseline,
    }  # fmt: skip


def _rows(
    link: str, rate: float, totals: dict[str, ExchangeCost], elements: int, chosen: Chosen
) -> list[dict[str, Any]]:
    dense, compressed = totals["dense"], totals["compressed"]
    gain = dense.total_seconds / compressed.total_seconds
    taken, other = (compressed, dense) if chosen.compressed else (dense, compressed)
    rows = [
        _row(f"exchange speed-up, {link}", gain, "ratio", 4.0 if rate == 1.0 else None, "dense bf16"),
        _row(f"chosen, {link}", float(chosen.compressed), "1 compressed, 0 dense", None, ""),
        # As much as the choice's own margin may be lost by it.
        _row(f"the other over the chosen, {link}", other.total_seconds / taken.total_seconds, "ratio", 0.9, ""),
        _row(f"push bytes saved, {link}", 4 * elements / compressed.pushed_bytes, "ratio", 200.0, "fp32"),
        _row(f"pull bytes saved, {link}", 4 * elements / max(1.0, compressed.pulled_bytes), "ratio", 20.0, "fp32"),
    ]
    for name, found in totals.items():
        for part in ("total", "encode", "link", "decode"):
            value = 1000 * getattr(found, f"{part}_seconds")
            rows.append(_row(f"{name} {part}, {link}", value, "ms", None, "", "lower"))
    return rows
