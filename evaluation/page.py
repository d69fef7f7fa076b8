"""An evaluation as a page: its tables with intervals, its goals, what was chosen and from what, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluation.choices import Choices
from evaluation.session import Results, Session
from evaluation.tables import GOAL_COLUMNS, METRIC_COLUMNS, flops_line, goal_cells, metric_cells


def write_page(session: Session, results: Results, path: Path, picture: Path | None = None) -> None:
    """Write Markdown; `picture` is named by its place beside the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(_parts(session, results, picture)) + "\n")


def _parts(session: Session, results: Results, picture: Path | None) -> Iterable[str]:
    yield f"# {session.dataset.name}, {session.protocol}"
    intervals = "95 % intervals by a paired bootstrap over users and seeds"
    yield f"`{command(session)}`. {intervals}; equal scores count at their expected rank."
    for title, records in results.tables.items():
        events = len(next(iter(records.values()))[0])
        yield f"## {title[0].upper()}{title[1:]} ({events:,} a seed)"
        yield _table(METRIC_COLUMNS, metric_cells(records))
    if results.verdicts:
        yield "## Goals: ratios of NDCG@10"
        yield _table(GOAL_COLUMNS, map(goal_cells, results.verdicts))
    if line := flops_line(results.flops):
        yield f"{line[0].upper()}{line[1:]}."
    if picture is not None:
        yield f"![NDCG@10 over the stream]({picture.name})"
    yield from _choices(session.choices)


def _choices(choices: Choices) -> Iterable[str]:
    """What was tried, and with what the tables were made."""
    rows = []
    for method in choices.methods():
        trials = choices.trials(method)
        scores = [trial["ndcg"] for trial in trials]
        chosen = f"`{json.dumps(choices.best(method), sort_keys=True)}`"
        rows.append([method, str(len(trials)), f"{min(scores):.4f}-{max(scores):.4f}", chosen])
    if rows:
        yield "## Chosen before the end was opened"
        yield _table(("method", "trials", "NDCG@10 of the worst and the best", "settings"), rows)


def command(session: Session) -> str:
    """What makes this again."""
    split = "" if session.protocol == "prequential" else f" --split {session.protocol}"
    group = "prequential" if session.protocol == "prequential" else "offline"
    return f"slipstream eval {group} --dataset {session.dataset.name}{split} --seeds {session.seeds}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
