"""One final run: a method with its chosen settings, one seed, the held-out events, and the records it leaves.

Results lie in `<folder>/<data set>/<protocol>/<scorer>-<hash>-s<seed>-<table>.npz`. A run whose records are there is
not made again; the last 20 % of a time split is opened through the log alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from catalogue.datasets import Dataset
from catalogue.replay import Timeline
from evaluation.choices import Protocol, published_line
from evaluation.methods import Fit, Method
from evaluation.ours import OnlineScorer
from evaluation.record import Record
from evaluation.retraining import RetrainedScorer
from evaluation.scorer import Scorer
from evaluation.stages import OpenedLog, configuration_hash
from evaluation.stream import OnProgress, Outcome, leave_last_out, leave_out_training, prequential, time_split

OnText = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """What is run.

    Attributes:
        settings: the chosen ones.
        folder: of results and of the log `opened.jsonl`.
    """

    dataset: Dataset
    protocol: Protocol
    method: Method
    settings: Mapping[str, Any]
    seed: int
    folder: Path

    @property
    def configuration(self) -> dict[str, Any]:
        """What the log knows the run by."""
        return {"protocol": self.protocol, "method": self.method.name, "settings": dict(self.settings)}

    @property
    def place(self) -> Path:
        """Where its results lie."""
        return self.folder / self.dataset.name / self.protocol

    @property
    def stem(self) -> str:
        """How its results' names begin."""
        return f"{configuration_hash(self.configuration)}-s{self.seed}"

    @property
    def done(self) -> bool:
        """Whether its results are there."""
        return (self.place / f"{self.stem}.json").exists()


@dataclass(frozen=True, eq=False)
class Result:
    """What one scorer of a run left.

    Attributes:
        outcome: its tables. flops: of learning the stream, 0 where nothing was learned or counted.
    """

    scorer: str
    outcome: Outcome
    flops: int


def execute(run: Run, device: torch.device, on_text: OnText, on_progress: OnProgress) -> list[Result]:
    """Make the run, or read what it left before."""
    if not run.done:
        with _stage(run) as (past, stream_events, ask):
            scorers = run.method.fit(Fit(past, run.seed, device, stream_events, report=on_text), run.settings)
            meta = {}
            for name, scorer in scorers.items():
                on_text(f"{name}: asking")
                _save(run, name, ask(scorer, on_progress))
                meta[name] = scorer.flops.total if isinstance(scorer, OnlineScorer | RetrainedScorer) else 0
        text = json.dumps({"configuration": run.configuration, "scorers": meta}, sort_keys=True)
        (run.place / f"{run.stem}.json").write_text(text)
    return read(run)


def read(run: Run) -> list[Result]:
    """The results of a run that is done."""
    meta = json.loads((run.place / f"{run.stem}.json").read_text())["scorers"]
    results = []
    for scorer, flops in meta.items():
        paths = [run.place / f"{run.stem}-{scorer}-{table}.npz" for table in ("masked", "open")]
        masked, open_ = (Record.load(path) if path.exists() else None for path in paths)
        if masked is None:
            raise FileNotFoundError(f"{paths[0]} is missing; delete {run.stem}.json beside it and run again")
        results.append(Result(scorer, Outcome(masked, open_), int(flops)))
    return results


def _save(run: Run, scorer: str, outcome: Outcome) -> None:
    outcome.masked.save(run.place / f"{run.stem}-{scorer}-masked.npz")
    if outcome.open is not None:
        outcome.open.save(run.place / f"{run.stem}-{scorer}-open.npz")


Ask = Callable[[Scorer, OnProgress], Outcome]


@contextmanager
def _stage(run: Run) -> Iterator[tuple[Timeline, int, Ask]]:
    """What the run may know, how many events follow, and how it is asked."""
    if run.protocol == "leave-one-out":
        line = published_line(run.dataset, run.seed)
        yield (
            leave_out_training(line),
            0,
            lambda scorer, told: leave_last_out(scorer, line, validation=False, on_progress=told),
        )
        return
    protocol = prequential if run.protocol == "prequential" else time_split
    log = OpenedLog(run.folder / "opened.jsonl")
    with log.final_stage(run.dataset, run.seed, run.configuration) as stage:
        yield (
            stage.past,
            len(stage.line) - stage.start,
            lambda scorer, told: protocol(scorer, stage.line, stage.start, told),
        )
