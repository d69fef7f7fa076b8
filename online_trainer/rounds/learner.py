"""What a rank's learner does in a round: a gradient that becomes all ranks' mean, or local steps that are averaged."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from online_trainer.admission import Arrival
from online_trainer.batch import train_batch
from online_trainer.exchange.layout import bind
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.overlapped import OverlappedGradients
from online_trainer.exchange.seam import Traffic
from online_trainer.exchange.synchronous import SynchronousExchange
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.learner import Learner, Recipe, StepReport, Verdict
from online_trainer.ledger import LedgerRow
from online_trainer.rounds.group import checked
from online_trainer.users import Histories
from recommender.examples import OnlineBatch, UserUpdate
from recommender.loading import Recommender
from recommender.online import Averaged
from recommender.replay import Past

_RESIDUAL = "residual."


class Round(NamedTuple):
    """What all ranks know of a round.

    Attributes:
        number: its plan's.
        averaged: what the step is a mean of.
        compressed: how gradients go; None as the rule says.
        passed: it takes no step.
        local_steps: batches of each rank in it.
    """

    number: int
    averaged: Averaged
    compressed: bool | None
    passed: bool
    local_steps: int = 1


Trained = tuple[float, Verdict, list[LedgerRow]]
"""Loss of the own events (NaN of none), what became of the round, and the own events' rows."""


class RoundsLearner(Learner):
    """A rank's replica of the weights: alike on every rank after each `train`. Raises RankLost."""

    @abstractmethod
    def train(self, round_: Round, arrivals: list[Arrival], histories: Histories) -> Trained:
        """This rank's part of a round; all call it, whether they have events or not."""

    @property
    @abstractmethod
    def traffic(self) -> Traffic:
        """So far."""

    @property
    @abstractmethod
    def nonfinite(self) -> int:
        """Elements that were not finite and counted as zero, so far."""

    @property
    def compressed(self) -> bool | None:
        """How the next gradients should go, alike on every rank; None where the rule has settled that."""
        return None


class StepLearner(RoundsLearner):
    """Every rank takes the same steps with the same optimizer, on the mean of all gradients (DDP: Li et al. 2020).

    Gradients leave bucket by bucket while backward goes on (`OverlappedGradients`).
    """

    attends = True

    def __init__(self, recommender: Recommender, recipe: Recipe, rule: Rule) -> None:
        super().__init__(recommender, recipe)
        self._averaged = Averaged(1, 0, 0)
        self._gradients = OverlappedGradients(self.learning, rule)
        self._applied = False

    @property
    def traffic(self) -> Traffic:
        """So far."""
        hidden, exposed, _ = self._gradients.overlap
        return Traffic(self._gradients.sent_bytes, self._gradients.sent_bytes, exposed, hidden)

    @property
    def nonfinite(self) -> int:
        """Gradient elements that were not finite and counted as zero, so far."""
        return self._gradients.nonfinite

    @property
    def compressed(self) -> bool | None:
        """How the next gradients should go."""
        return self._gradients.compressed

    def train(self, round_: Round, arrivals: list[Arrival], histories: Histories) -> Trained:
        """One step of all ranks."""
        self._averaged = round_.averaged
        if round_.compressed is not None:
            self._gradients.compressed = round_.compressed
        report, rows = train_batch(round_.number, arrivals, self, histories, round_.passed)
        return report.loss, report.verdict, rows

    def step(
        self, users: Sequence[UserUpdate], past: Past | None = None, batch: OnlineBatch | None = None
    ) -> StepReport:
        """As `Learner.step`, by all ranks at once; there may be no users here."""
        if not self._averaged.events:
            return StepReport(Verdict.NOTHING)
        report = self._backward(self.batch(users), past) if users else StepReport(Verdict.NOTHING)
        checked(self._gradients.finish)()
        reach(FaultPoint.ROUND_EXCHANGED)
        if math.isfinite(self._online.clip()):
            self._online.step()
        else:
            report = StepReport(Verdict.NON_FINITE, report.loss)
        self._online.clear()
        return report

    def state(self) -> dict[str, Tensor]:
        """As a single learner's, and what this rank has not sent."""
        return super().state() | {_RESIDUAL + name: kept for name, kept in self._gradients.residuals().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was. Raises ValueError."""
        own, kept = _split(state)
        self._gradients.load_residuals(kept)
        super().load_state(own)

    def _backward(self, batch: OnlineBatch, past: Past | None) -> StepReport:
        """Score the own events, and send their gradient."""
        if not batch.num_events:
            return StepReport(Verdict.NOTHING)
        scores = self.score(batch)
        if scores is None:
            return StepReport(Verdict.NON_FINITE)
        loss = checked(self._online.gradients)(batch, past, self._averaged)
        if not math.isfinite(loss):
            return StepReport(Verdict.NON_FINITE, loss, scores)
        reach(FaultPoint.BATCH_GRADIENT_READY)
        return StepReport(Verdict.APPLIED, loss, scores)


class LocalStepsLearner(RoundsLearner):
    """Each rank takes steps of its own with its own optimizer; then what they changed is averaged (DiLoCo: Douillard et
    al. 2023), with error feedback where that is compressed, in fragments where the rule says so."""

    def __init__(self, recommender: Recommender, recipe: Recipe, rule: Rule) -> None:
        super().__init__(recommender, recipe)
        self._average = recipe.average
        _, self._learning = bind(self.learning)
        self._serving = bind(self.recommender.model)[1] if recipe.average else self._learning
        self._exchange = SynchronousExchange(self._learning, rule)

    @property
    def traffic(self) -> Traffic:
        """So far."""
        return self._exchange.traffic

    @property
    def nonfinite(self) -> int:
        """Elements of updates that were not finite and counted as zero, so far."""
        return self._exchange.nonfinite

    def train(self, round_: Round, arrivals: list[Arrival], histories: Histories) -> Trained:
        """Local steps on equal parts of the batch, from what this rank has learned, sent or not; then one exchange."""
        before, served = self._learning.clone(), self._serving.clone()
        self._learning.sub_(self._exchange.residual)
        first = self._learning.clone()
        size = max(1, -(-len(arrivals) // round_.local_steps))
        loss, verdict, rows = math.nan, Verdict.NOTHING, []
        for start in range(0, len(arrivals), size):
            part = arrivals[start : start + size]
            report, of_part = train_batch(round_.number, part, self, histories, round_.passed)
            rows += of_part
            if report.verdict is not Verdict.NOTHING:
                loss, verdict = report.loss, report.verdict
        update = first - self._learning
        self._learning.copy_(before)
        self._serving.copy_(served)
        if round_.averaged.events and not round_.passed:
            checked(self._exchange.exchange)(update)
            reach(FaultPoint.ROUND_EXCHANGED)
            if self._average:
                self._serving.lerp_(self._learning, 1 - self._average)
        return loss, verdict, rows

    def state(self) -> dict[str, Tensor]:
        """As a single learner's, what this rank has not sent, and its place among the fragments."""
        kept = {_RESIDUAL + "update": self._exchange.residual, _RESIDUAL + "index": torch.tensor(self._exchange.index)}
        return super().state() | kept

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was. Raises ValueError."""
        own, kept = _split(state)
        if kept.keys() != {"update", "index"} or kept["update"].shape != self._learning.shape:
            raise ValueError("the residuals are of another model or rule; go on with the one that wrote them")
        super().load_state(own)
        self._exchange.restore(kept["update"], int(kept["index"]))


def rounds_learner(recommender: Recommender, recipe: Recipe, rule: Rule) -> RoundsLearner:
    """What the rule asks for: one common step a round, or local steps and fragments."""
    local = rule.local_steps > 1 or rule.fragments > 1
    return (LocalStepsLearner if local else StepLearner)(recommender, recipe, rule)


def _split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The learner's own tensors, and the residuals by their names."""
    own = {name: tensor for name, tensor in state.items() if not name.startswith(_RESIDUAL)}
    return own, {name.removeprefix(_RESIDUAL): state[name] for name in state.keys() - own.keys()}
