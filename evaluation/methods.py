"""What is compared, behind one interface: settings to choose from, and scorers once fitted to a past."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from catalogue.replay import Timeline
from evaluation.heuristics import HeuristicMethod
from evaluation.sasrec import Loss, Sasrec, SasrecScorer, SasrecSettings
from evaluation.sasrec_training import SasrecTrainer, train_until_best
from evaluation.scorer import HeuristicScorer, Scorer

Settings = Mapping[str, Any]
PATIENCE = 10
"""Validations without a gain, two epochs apart, before a SASRec is done.

It lies on a plateau first: with 3, five of six trials on latest-small stopped there after 4 to 14 epochs at NDCG@10
0.014 to 0.017, the sixth went on to 0.049.
"""
Validate = Callable[[Scorer], float]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Fit:
    """What a method is fitted with.

    Attributes:
        past: all it may know.
        seed: of weights and orders; the timeline has the same.
        stream_events: how many events will be asked for, where the scorer learns from them.
        validate: NDCG@10 of a scorer on the events that choices are made by; None once choices have been made.
        report: told how the fitting goes, a line at a time.
    """

    past: Timeline
    seed: int
    device: torch.device
    stream_events: int = 0
    validate: Validate | None = None
    report: Report = lambda text: None


class Method(ABC):
    """A way of recommending, with what it may try.

    Attributes:
        name: of the method, and of its first scorer.
        trials: settings to choose from; JSON values only.
    """

    name: str
    trials: tuple[dict[str, Any], ...]

    @abstractmethod
    def fit(self, fit: Fit, settings: Settings) -> dict[str, Scorer]:
        """Scorers by name, each with its own state, that know `fit.past`; a stream is theirs to learn from."""

    def chosen(self, settings: Settings) -> dict[str, Any]:
        """The settings to fit with after the choice: those tried, and what the last `fit` found out itself."""
        return dict(settings)


class Heuristics(Method):
    """One heuristic."""

    def __init__(self, heuristic: HeuristicMethod) -> None:
        self.name, self.trials = heuristic.name, heuristic.grid
        self._heuristic = heuristic

    def fit(self, fit: Fit, settings: Settings) -> dict[str, Scorer]:
        """Has seen the past, event by event."""
        return {self.name: HeuristicScorer(self._heuristic.make(fit.past.dataset, settings), fit.past)}


class SasrecMethod(Method):
    """A SASRec with one of the losses; while choosing, epochs go on until validation stops rising."""

    def __init__(self, loss: Loss, trials: tuple[dict[str, Any], ...]) -> None:
        self.name, self.trials = f"sasrec-{loss}", trials
        self._epochs = 0

    def fit(self, fit: Fit, settings: Settings) -> dict[str, Scorer]:
        """`settings` may hold `epochs`, `max_epochs`, `patience` and `every` beside those of `SasrecSettings`."""
        own = dict(settings)
        epochs, most = own.pop("epochs", None), own.pop("max_epochs", 200)
        patience, every = own.pop("patience", PATIENCE), own.pop("every", 2)
        trainer = SasrecTrainer(fit.past, SasrecSettings(**own), fit.seed, fit.device)
        if epochs is not None:
            for epoch in range(1, epochs + 1):
                fit.report(f"epoch {epoch} of {epochs}, loss {trainer.epoch():.3f}")
            return {self.name: SasrecScorer(trainer.model)}
        if fit.validate is None:
            raise ValueError("a SASRec without `epochs` needs a validation to stop by; choose first")
        validate = fit.validate

        def score(model: Sasrec) -> float:
            return validate(SasrecScorer(model))

        def told(epoch: int, loss: float, ndcg: float | None) -> None:
            fit.report(f"epoch {epoch}, loss {loss:.3f}" + ("" if ndcg is None else f", NDCG@10 {ndcg:.4f}"))

        self._epochs = train_until_best(trainer, score, most, patience, every, told)
        return {self.name: SasrecScorer(trainer.model)}

    def chosen(self, settings: Settings) -> dict[str, Any]:
        """With the number of epochs that was best."""
        kept = {name: value for name, value in settings.items() if name not in ("max_epochs", "patience", "every")}
        return kept if "epochs" in kept else {**kept, "epochs": self._epochs}


_WHOLE_BLOCKS: dict[str, Any] = {"window": 200, "from_block_start": True}
_MASKED: dict[str, Any] = {"mask_seen": True}
_SHAPES: tuple[dict[str, Any], ...] = (
    {"hidden": 64, "dropout": 0.2},
    {"hidden": 64, "dropout": 0.5, **_MASKED},
    {"hidden": 128, "dropout": 0.3},
    {"hidden": 128, "dropout": 0.5, **_MASKED},
    {"hidden": 256, "dropout": 0.5, **_MASKED},
    {"hidden": 128, "dropout": 0.3, **_WHOLE_BLOCKS},
)
_BASKET_SHAPES: tuple[dict[str, Any], ...] = (
    {"hidden": 128, "dropout": 0.3},
    {"hidden": 128, "dropout": 0.3, **_WHOLE_BLOCKS},
    {"hidden": 256, "dropout": 0.3, **_WHOLE_BLOCKS},
    {"hidden": 256, "dropout": 0.5, **_WHOLE_BLOCKS},
    {"hidden": 512, "dropout": 0.5, **_WHOLE_BLOCKS},
    {"hidden": 1024, "dropout": 0.5, "batch_rows": 64, "learning_rate": 5e-4, **_WHOLE_BLOCKS},
)


def sasrec_trials(loss: Loss, repeats: bool) -> tuple[dict[str, Any], ...]:
    """Six settings around those of the papers that tuned SASRec: width, dropout, window, whole blocks, and what
    helps ours: that what was had does not compete.

    Args:
        repeats: whether people take things again. Then all but one ask for whole blocks of a long history, and widths
            go as far as ours.
    """
    shapes = _BASKET_SHAPES if repeats else _SHAPES
    return tuple({**asdict(SasrecSettings(loss=loss)), **shape} for shape in shapes)
