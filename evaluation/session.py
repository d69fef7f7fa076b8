"""A whole evaluation of one data set by one protocol: choose, run every seed, collect. Resumable at any point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from catalogue.datasets import Dataset
from catalogue.replay import Timeline, timeline
from evaluation.choices import Choices, Protocol, untried
from evaluation.cold_start import ages, new_users, young_items
from evaluation.goals import goals, methods
from evaluation.methods import Heuristics, Method
from evaluation.our_method import Ours, Retrained, retrained_trials
from evaluation.record import Record
from evaluation.retraining import Start
from evaluation.runs import Result, Run, read
from evaluation.tables import Verdict, verdicts
from evaluation.tasks import Task, perform_all

ALL = "all events"
YOUNG_EVENTS, NEW_USER_EVENTS = 20, 5
"""What counts as young."""
OnText = Callable[[str], None]
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Session:
    """What is evaluated.

    Attributes:
        names: methods to take part; empty for all.
        folder: of results; `choices` lie in it by data set and protocol.
        data: where the data set lies; None where `catalogue.datasets.load` looks.
        choose: whether untried settings are tried; without it, what was tried before is used.
        starts: how the retrained model may start; with one of them there is nothing to choose.
        jobs: processes side by side. threads: CPU threads of each; 0 leaves it to torch.
    """

    dataset: Dataset
    protocol: Protocol
    seeds: int
    device: str
    folder: Path
    data: Path | None = None
    names: Sequence[str] = ()
    choose: bool = True
    starts: tuple[Start, ...] = ("scratch", "warm")
    jobs: int = 1
    threads: int = 0

    def task(self, method: Method, settings: Mapping[str, Any], seed: int | None) -> Task:
        """A trial, or with a seed a final run, as a process takes it."""
        return Task(
            self.dataset.name,
            self.data,
            self.protocol,
            method.name,
            settings,
            seed,
            self.folder,
            self.device,
            self.threads,
        )

    @property
    def choices(self) -> Choices:
        """What was and will be tried."""
        return self._choices(self.protocol)

    @property
    def stream_choices(self) -> Choices:
        """What was tried for the stream."""
        return self._choices("prequential")

    def _choices(self, protocol: Protocol) -> Choices:
        return Choices(self.folder / self.dataset.name / protocol / "choices.json")


@dataclass(frozen=True)
class Results:
    """What came out.

    Attributes:
        tables: title → scorer → records by seed: `all events`; where people buy again also `first purchases`; of a
            stream also what was young when it was asked for.
        flops: scorer → operations of learning the stream, mean over seeds.
        verdicts: goals on the main table.
    """

    tables: dict[str, dict[str, list[Record]]]
    flops: dict[str, float]
    verdicts: list[Verdict]


def evaluate(session: Session, on_text: OnText, on_progress: OnProgress) -> Results:
    """Choose what has not been chosen, run what has not been run, read everything.

    Raises:
        ValueError: a name that is no method. LookupError: no choice, and choosing is off.
    """
    found = _methods(session)
    first = [method for method in found if not isinstance(method, Retrained)]
    _choose(session, first, on_text, on_progress)
    for method in found:
        if isinstance(method, Retrained):
            # Its settings are those that were chosen for ours.
            method.trials = retrained_trials(session.choices.best(Ours.name), session.starts)
            _choose(session, [method], on_text, on_progress)
    runs = [run for method in found for run in _runs(session, method)]
    tasks = [session.task(run.method, run.settings, run.seed) for run in runs if not run.done]
    for _ in perform_all(tasks, session.jobs, on_text, on_progress):
        pass
    return _collect(session, runs)


def _methods(session: Session) -> list[Method]:
    found = methods(session.dataset, session.protocol)
    known = [method.name for method in found]
    if wrong := set(session.names) - set(known):
        raise ValueError(f"{', '.join(sorted(wrong))}: no such method here; there are {', '.join(known)}")
    return [method for method in found if not session.names or method.name in session.names]


def _choose(session: Session, found: Sequence[Method], on_text: OnText, on_progress: OnProgress) -> None:
    """Try everything untried; a method with nothing to choose from needs no trial."""
    if not session.choose:
        return
    tasks = [
        session.task(method, settings, None)
        for method in found
        if len(method.trials) > 1
        if not _shared(session, method)
        for settings in untried(method, session.choices)
    ]
    for task, trial in perform_all(tasks, session.jobs, on_text, on_progress):
        session.choices.add(task.method, trial)


def _runs(session: Session, method: Method) -> list[Run]:
    settings = _settings(session, method)
    return [
        Run(session.dataset, session.protocol, method, settings, seed, session.folder) for seed in range(session.seeds)
    ]


def _settings(session: Session, method: Method) -> Mapping[str, Any]:
    if len(method.trials) == 1:
        return method.trials[0]
    if _shared(session, method):
        return session.stream_choices.best(method.name, "ours-frozen" if isinstance(method, Ours) else method.name)
    return session.choices.best(method.name)


def _shared(session: Session, method: Method) -> bool:
    """Whether the stream's trials choose for the time split, too: both end at 80 %, and a trained model is asked the
    same in both but for the items born after 70 %."""
    apart = isinstance(method, Heuristics) or bool(session.choices.trials(method.name))
    return session.protocol == "time-split" and not apart and bool(session.stream_choices.trials(method.name))


def _collect(session: Session, runs: Sequence[Run]) -> Results:
    tables: dict[str, dict[str, list[Record]]] = {}
    flops: dict[str, float] = {}
    for run in runs:
        for result in read(run):
            for title, record in _parts(session, run, result).items():
                tables.setdefault(title, {}).setdefault(result.scorer, []).append(record)
            flops[result.scorer] = flops.get(result.scorer, 0.0) + result.flops / session.seeds
    return Results(tables, flops, verdicts(tables[ALL], goals(session.dataset, session.protocol)))


def _parts(session: Session, run: Run, result: Result) -> dict[str, Record]:
    """The records of a result by table."""
    record = result.outcome.main
    parts = {ALL: record}
    if session.dataset.repeats:
        parts["first purchases"] = result.outcome.masked
    if session.protocol == "prequential":
        known = ages(_line(session.dataset, run.seed), record)
        parts[f"items with fewer than {YOUNG_EVENTS} events"] = young_items(record, known, below_events=YOUNG_EVENTS)
        parts["items younger than a day"] = young_items(record, known, below_days=1.0)
        parts[f"users with fewer than {NEW_USER_EVENTS} events"] = new_users(
            record, known, below_events=NEW_USER_EVENTS
        )
    return {title: part for title, part in parts.items() if len(part)}


@lru_cache(maxsize=16)
def _line(dataset: Dataset, seed: int) -> Timeline:
    return timeline(dataset, seed)
