"""A bench's document as Markdown: the command, how calm the machine was, goals met and missed, and what limits them.

`python -m kernels.bench.report cuda RESULT.json OUT.md` writes it from what `python -m kernels.bench` printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_KERNELS = Path(__file__).parents[1]
_LIMITS = {"cpu": ("**On a CPU**",), "cuda": ("**What limits it", "**On a GPU**")}
"""How the paragraph of an op's README begins that says what limits it; the first that is there."""

_METHOD = (
    "Every op's tests were green on this machine before it was timed. Medians of the runs, with the 20th and 80th "
    "percentile; the caches are flushed before each run. The share of copy bandwidth counts the fewest bytes the op "
    "must move, against a copy's read and written bytes in this run"
)
_COPY_ON_A_CPU = "; a copy also reads the lines it overwrites, which an update in place has read: it may reach 1.5."
_BUSY = (
    " **The machine was busy:** times are upper bounds, and a parallel region waits for its slowest core, so that the "
    "ratios say little. Repeat it when the machine is calm."
)


def markdown(document: dict[str, Any], device: str, command: str, plot: str | None = None) -> str:
    """The table with verdicts, then for each op that missed a goal its README's paragraph on what limits it.

    Args:
        document: as `runner.run` returns it.
        device: `cpu` or `cuda`.
        command: the command line that repeats it.
        plot: file name of a picture to show.
    """
    machine, rows = document["machine"], document["rows"]
    judged = [row for row in rows if row["goal"] is not None]
    missed = [row for row in judged if not met(row)]
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("torch", "triton", "numba", "python") if name in machine
    )
    parts = [
        f"# Kernels on {machine['device']} ({document['date']})",
        f"Command: `{command}`. {machine['cpus']} CPU cores, {versions}. {_calm(document, device)}",
        _METHOD + (_COPY_ON_A_CPU if device == "cpu" else "."),
        f"**{len(judged) - len(missed)} of {len(judged)} goals met.**"
        + (f" Missed: {'; '.join(row['name'] for row in missed)}." if missed else ""),
        _table(rows),
    ]
    if plot:
        parts.append(f"![bytes an element against achieved bandwidth]({plot})")
    if missed:
        parts.append("## What limits what was missed")
        parts += [_limits(op, device) for op in dict.fromkeys(row["op"] for row in missed)]
    return "\n\n".join(parts) + "\n"


def met(row: dict[str, Any]) -> bool:
    """Whether a row with a goal reaches it."""
    return bool(row["value"] >= row["goal"] if row["better"] == "higher" else row["value"] <= row["goal"])


def _calm(document: dict[str, Any], device: str) -> str:
    before, cores = document["load_before"], document["machine"]["cpus"]
    text = f"Load average before: {before:.2f}; after: {document['load_after']:.2f} (this run's own included)."
    if device == "cpu":
        text += _BUSY if before > 0.25 * cores else " The machine was calm."
    return text


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| what | measured | p20 to p80 | wanted | verdict | baseline |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        goal, verdict = "", ""
        if row["goal"] is not None:
            goal = f"{'≥' if row['better'] == 'higher' else '≤'} {row['goal']:g}"
            verdict = "met" if met(row) else "**missed**"
        spread = f"{row['p20']:.4g} to {row['p80']:.4g}" if "p20" in row else ""
        value = f"{row['value']:.4g} {row['unit']}"
        lines.append(f"| {row['name']} | {value} | {spread} | {goal} | {verdict} | {row['baseline'] or ''} |")
    return "\n".join(lines)


def _limits(op: str, device: str) -> str:
    """The op's name, linked, over the paragraphs of its README that begin as `_LIMITS` says."""
    path = _KERNELS / op / "README.md"
    paragraphs = path.read_text(encoding="utf-8").split("\n\n") if path.exists() else []
    for opening in _LIMITS[device]:
        if found := [text.strip() for text in paragraphs if opening in text.partition("\n")[0]]:
            return "\n\n".join([f"[{op}](../kernels/{op}/README.md):", *found])
    return f"[{op}](../kernels/{op}/README.md)"


if __name__ == "__main__":
    device, source, target = sys.argv[1:4]
    text = markdown(json.loads(Path(source).read_text()), device, f"python -m kernels.bench {device} 1e9 > {source}")
    Path(target).write_text(text, encoding="utf-8")
