"""NDCG@10 over a stream, one line a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.record import Record
from evaluation.tables import Records

BINS = 40


def plot_stream(title: str, records: Records, path: Path) -> None:
    """Write a PNG: the mean over seeds in 40 equal parts of the events."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    for name, seeds in records.items():
        curve = np.mean([_binned(record) for record in seeds], axis=0)
        axes.plot(np.linspace(80, 100, BINS), curve, label=name, linewidth=2 if name.startswith("ours") else 1)
    axes.set(title=title, xlabel="events, % of the timeline", ylabel="NDCG@10", ylim=(0, None))
    axes.legend(fontsize="small", ncols=2)
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _binned(record: Record) -> Sequence[float]:
    parts = np.array_split(record.ndcg[np.argsort(record.position)], BINS)
    return [float(part.mean()) if len(part) else np.nan for part in parts]
