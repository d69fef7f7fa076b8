"""Tables and JSON rows of results: means with intervals, and the ratios that goals are set for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from evaluation.compare import Ratio, mean, ratio
from evaluation.record import Record

Records = Mapping[str, Sequence[Record]]
"""Scorer → its records, one a seed."""


@dataclass(frozen=True)
class Goal:
    """A ratio of NDCG@10 to reach.

    Attributes:
        baselines: the best of these counts (the one with the highest mean).
    """

    name: str
    ours: str
    baselines: tuple[str, ...]
    goal: float


@dataclass(frozen=True)
class Verdict:
    """A goal and what was measured; `baseline` is the one that was best."""

    goal: Goal
    baseline: str
    ratio: Ratio

    @property
    def reached(self) -> bool:
        """Whether the point reaches the goal with its interval above 1."""
        return self.ratio.reaches(self.goal.goal)


def verdicts(records: Records, goals: Sequence[Goal]) -> list[Verdict]:
    """Those goals whose scorers were run."""
    found = []
    for goal in goals:
        there = [name for name in goal.baselines if name in records]
        if goal.ours in records and there:
            best = max(there, key=lambda name: float(np.mean([record.ndcg.mean() for record in records[name]])))
            found.append(Verdict(goal, best, ratio(records[goal.ours], records[best])))
    return found


def metrics_table(title: str, records: Records) -> Table:
    """A row a scorer, best first: NDCG@10, Recall@10, MRR with 95 % intervals, and coverage."""
    table = Table(*METRIC_COLUMNS, title=title)
    for cells in metric_cells(records):
        table.add_row(*cells)
    return table


METRIC_COLUMNS = ("", "NDCG@10", "Recall@10", "MRR", "coverage")


def metric_cells(records: Records) -> list[list[str]]:
    """A row a scorer, best first, under `METRIC_COLUMNS`."""
    rows = []
    for name, seeds in _best_first(records):
        cells = [f"{i.mean:.4f} ({i.low:.4f}-{i.high:.4f})" for i in (mean(seeds, m) for m in METRICS)]
        rows.append([name, *cells, f"{np.mean([record.coverage for record in seeds]):.1%}"])
    return rows


def goals_table(found: Sequence[Verdict]) -> Table:
    """A row a goal."""
    table = Table(*GOAL_COLUMNS, title="Ratios of NDCG@10")
    for verdict in found:
        table.add_row(*goal_cells(verdict))
    return table


GOAL_COLUMNS = ("goal", "baseline", "ratio (95 %)", "wanted", "reached")


def goal_cells(verdict: Verdict) -> list[str]:
    """A goal's row under `GOAL_COLUMNS`."""
    own = verdict.ratio
    interval = f"{own.point:.3f} ({own.low:.3f}-{own.high:.3f})"
    reached = "yes" if verdict.reached else "no"
    return [verdict.goal.name, verdict.baseline, interval, f"{verdict.goal.goal:.2f}", reached]


METRICS = {"ndcg": "ndcg_at_10", "recall": "recall_at_10", "reciprocal_rank": "mrr"}


def json_rows(table: str, records: Records, found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Rows of the measuring commands' JSON line."""
    rows: list[dict[str, Any]] = []
    for name, seeds in _best_first(records):
        for metric, label in METRICS.items():
            value = mean(seeds, metric)
            rows.append(_row(f"{table}.{name}.{label}", value.mean, low=value.low, high=value.high))
        rows.append(_row(f"{table}.{name}.coverage", float(np.mean([record.coverage for record in seeds]))))
    for verdict in found:
        own = verdict.ratio
        extra = {"goal": verdict.goal.goal, "baseline": verdict.baseline, "reached": verdict.reached}
        rows.append(_row(f"{table}.ratio.{verdict.goal.name}", own.point, low=own.low, high=own.high, **extra))
    return rows


def _row(name: str, value: float, **extra: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": "ratio", "goal": None, "better": "higher", "baseline": None, **extra}


def _best_first(records: Records) -> list[tuple[str, Sequence[Record]]]:
    return sorted(records.items(), key=lambda entry: -float(np.mean([record.ndcg.mean() for record in entry[1]])))


def flops_line(flops: Mapping[str, float]) -> str:
    """What learning the stream has cost; empty where nothing was counted."""
    told = [f"{name} {total / 1e12:,.2f} TFLOP" for name, total in flops.items() if total]
    share = flops_share(flops)
    return "" if not told else "learning the stream: " + ", ".join(told) + ("" if share is None else f" ({share:.1%})")


def flops_share(flops: Mapping[str, float]) -> float | None:
    """Operations of online learning over those of ten retrainings; None where one of them was not run."""
    online, retrained = flops.get("ours-online", 0.0), flops.get("ours-retrained", 0.0)
    return online / retrained if online and retrained else None


def flops_rows(flops: Mapping[str, float]) -> list[dict[str, Any]]:
    """Rows of the JSON line."""
    rows = [
        {**_row(f"flops.{name}", total), "unit": "flop", "better": "lower"} for name, total in flops.items() if total
    ]
    share = flops_share(flops)
    if share is not None:
        rows.append({**_row("flops.online_over_retraining", share), "goal": 0.1, "better": "lower"})
    return rows
