"""Choosing settings on 70-80 % of the timeline, and remembering what was chosen and from what.

The results folder holds `choices.json` for each data set and protocol: per method every trial with its NDCG@10, and the
best. A method that has been chosen is not chosen again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from catalogue.datasets import Dataset
from catalogue.replay import Timeline, timeline
from evaluation.methods import Fit, Method
from evaluation.scorer import Scorer
from evaluation.stages import configuration_hash, tuning_stage
from evaluation.stream import Outcome, leave_last_out, leave_out_training, prequential, time_split

Protocol = Literal["prequential", "time-split", "leave-one-out"]
CHOICE_SEED = 0
Report = Callable[[str], None]


class Choices:
    """`choices.json` of one data set and protocol."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def trials(self, method: str) -> list[dict[str, Any]]:
        """What was tried so far: `settings`, `chosen` (what to fit with), `ndcg` (of the last scorer), `scorers`."""
        return list(self._read().get(method, []))

    def methods(self) -> list[str]:
        """Those with a trial."""
        return list(self._read())

    def best(self, method: str, scorer: str | None = None) -> dict[str, Any]:
        """The settings to fit `method` with: those of its last scorer's best trial, or of `scorer`'s.

        Raises LookupError where nothing was tried.
        """
        trials = self.trials(method)
        if not trials:
            raise LookupError(f"{method} has no trial in {self.path}; leave out --no-choose")
        found = max(trials, key=lambda trial: trial["scorers"][scorer] if scorer else trial["ndcg"])
        return dict(found["chosen"])

    def add(self, method: str, trial: dict[str, Any]) -> None:
        """Keep one more trial; commands that work on other methods side by side keep theirs, too."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            everything = self._read()
            everything.setdefault(method, []).append(trial)
            partial = self.path.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(json.dumps(everything, indent=1, sort_keys=True))
            partial.replace(self.path)

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        return dict(json.loads(self.path.read_text())) if self.path.exists() else {}


def untried(method: Method, choices: Choices) -> list[dict[str, Any]]:
    """The method's settings without a trial."""
    done = {configuration_hash(trial["settings"]) for trial in choices.trials(method.name)}
    return [settings for settings in method.trials if configuration_hash(settings) not in done]


def try_settings(
    method: Method,
    settings: dict[str, Any],
    dataset: Dataset,
    protocol: Protocol,
    device: torch.device,
    report: Report = lambda text: None,
) -> dict[str, Any]:
    """One trial, as `Choices` keeps it. Nothing after 80 % of the timeline is read."""
    past, stream_events, ask = _held_out(dataset, protocol)

    def validate(scorer: Scorer) -> float:
        return float(ask(scorer).main.ndcg.mean())

    scorers = method.fit(Fit(past, CHOICE_SEED, device, stream_events, validate, report), settings)
    found = {name: validate(scorer) for name, scorer in scorers.items()}
    # The last scorer is the one that learns on, where there is one.
    ndcg = list(found.values())[-1]
    return {"settings": settings, "chosen": method.chosen(settings), "ndcg": ndcg, "scorers": found}


def _held_out(dataset: Dataset, protocol: Protocol) -> tuple[Timeline, int, Callable[[Scorer], Outcome]]:
    """The past to fit to, how many events are asked for, and the evaluation that choices are made by."""
    if protocol == "leave-one-out":
        line = published_line(dataset, CHOICE_SEED)
        return leave_out_training(line), 0, lambda scorer: leave_last_out(scorer, line, validation=True)
    stage = tuning_stage(dataset, CHOICE_SEED)
    run = prequential if protocol == "prequential" else time_split
    return stage.past, len(stage.line) - stage.start, lambda scorer: run(scorer, stage.line, stage.start)


def published_line(dataset: Dataset, seed: int) -> Timeline:
    """The timeline of leave-one-out: in the papers' order where the data set has one, to be comparable."""
    return timeline(dataset, seed, published_order=dataset.sequence is not None)
