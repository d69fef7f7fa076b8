"""The bench's Markdown: verdicts follow the goals' direction, and what was missed brings its README's reason."""

from __future__ import annotations

from typing import Any

import pytest

from kernels.bench.report import markdown, met
from kernels.bench.runner import OPS


def row(name: str, value: float, goal: float | None, better: str, op: str = "compress") -> dict[str, Any]:
    return {
        "name": name, "value": value, "unit": "×", "goal": goal, "better": better, "baseline": None, "op": op,
    }  # fmt: skip


def document(rows: list[dict[str, Any]], load: float = 0.1) -> dict[str, Any]:
    machine = {"device": "a processor", "cpus": 2, "torch": "2", "python": "3"}
    return {"machine": machine, "date": "2026-01-02", "load_before": load, "load_after": 1.0, "rows": rows}


def test_verdicts_follow_the_direction() -> None:
    assert met(row("a", 1.0, 1.0, "higher")) and not met(row("a", 0.99, 1.0, "higher"))
    assert met(row("a", 1.0, 1.0, "lower")) and not met(row("a", 1.01, 1.0, "lower"))


def test_a_missed_goal_brings_the_readme_s_reason() -> None:
    rows = [row("fast", 3.0, 2.0, "higher"), row("slow", 3.0, 2.0, "lower", "wire"), row("plain", 1.0, None, "lower")]
    text = markdown(document(rows), "cpu", "slipstream bench kernels --device cpu")
    assert "1 of 2 goals met." in text and "Missed: slow." in text
    assert "| slow | 3 × |  | ≤ 2 | **missed** |" in text and "| fast | 3 × |  | ≥ 2 | met |" in text
    assert "[wire](../kernels/wire/README.md):\n\n**On a CPU**" in text and "[compress]" not in text


def test_a_busy_machine_is_named() -> None:
    assert "The machine was busy" in markdown(document([], load=3.0), "cpu", "x")
    assert "The machine was calm" in markdown(document([], load=0.2), "cpu", "x")


@pytest.mark.parametrize("op", OPS)
def test_every_op_says_what_limits_it_on_a_cpu(op: str) -> None:
    text = markdown(document([row(op, 0.0, 1.0, "higher", op)]), "cpu", "x")
    assert f"[{op}](../kernels/{op}/README.md):\n\n**On a CPU**" in text
