"""A whole evaluation of one data set by one protocol: choose, run every seed, collect. Resumable at any point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from catalogue.datasets import Dataset
from evaluation.choices import Choices, Protocol, choose
from evaluation.goals import goals, methods
from evaluation.methods import Method
from evaluation.our_method import Ours, Retrained, retrained_trials
from evaluation.record import Record
from evaluation.runs import Run, execute
from evaluation.tables import Verdict, verdicts

OnText = Callable[[str], None]
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Session:
    """What is evaluated.

    Attributes:
        names: methods to take part; empty for all.
        folder: of results; `choices` lie in it by data set and protocol.
        choose: whether untried settings are tried; without it, what was tried before is used.
    """

    dataset: Dataset
    protocol: Protocol
    seeds: int
    device: torch.device
    folder: Path
    names: Sequence[str] = ()
    choose: bool = True

    @property
    def choices(self) -> Choices:
        """What was and will be tried."""
        return Choices(self.folder / self.dataset.name / self.protocol / "choices.json")


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        tables: title → scorer → records by seed: `all events`, and where people buy again also `first purchases`.
        flops: scorer → operations of learning the stream, mean over seeds.
        verdicts: goals on the main table.
    """

    tables: dict[str, dict[str, list[Record]]] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)


def evaluate(session: Session, on_text: OnText, on_progress: OnProgress) -> Results:
    """Choose what has not been chosen, run what has not been run.

    Raises:
        ValueError: a name that is no method. LookupError: no choice, and choosing is off.
    """
    results = Results()
    repeats = session.dataset.repeats
    main = "all events"
    results.tables[main] = {}
    if repeats:
        results.tables["first purchases"] = {}
    for method in _methods(session):
        if isinstance(method, Retrained):
            # Its settings are those that were chosen for ours, which has had its turn.
            method.trials = retrained_trials(session.choices.best(Ours.name))
        settings = _settings(session, method, on_text)
        for seed in range(session.seeds):
            run = Run(session.dataset, session.protocol, method, settings, seed, session.folder)
            for result in execute(run, session.device, _titled(f"{method.name}, seed {seed}", on_text), on_progress):
                results.tables[main].setdefault(result.scorer, []).append(result.outcome.main)
                if repeats:
                    results.tables["first purchases"].setdefault(result.scorer, []).append(result.outcome.masked)
                results.flops[result.scorer] = results.flops.get(result.scorer, 0.0) + result.flops / session.seeds
    results.verdicts.extend(verdicts(results.tables[main], goals(session.dataset, session.protocol)))
    return results


def _titled(title: str, on_text: OnText) -> OnText:
    return lambda text: on_text(f"{title}: {text}")


def _methods(session: Session) -> list[Method]:
    found = methods(session.dataset, session.protocol)
    known = [method.name for method in found]
    if wrong := set(session.names) - set(known):
        raise ValueError(f"{', '.join(sorted(wrong))}: no such method here; there are {', '.join(known)}")
    return [method for method in found if not session.names or method.name in session.names]


def _settings(session: Session, method: Method, on_text: OnText) -> dict[str, object]:
    """The chosen settings; a method with nothing to choose from needs no trial."""
    if method.trials == ({},):
        return {}
    if session.choose:
        return choose(method, session.dataset, session.protocol, session.choices, session.device, on_text)
    return session.choices.best(method.name)
