"""The model and its optimizer: score a batch with the weights as they are, then step on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from online_trainer.fault_points import FaultPoint, reach
from recommender.examples import OnlineBatch, UserUpdate, online_batch
from recommender.loading import Recommender
from recommender.online import OnlineModel
from recommender.ranking import ndcg, tied_ranks
from recommender.recipe import OnlineRecipe
from recommender.replay import Past

Recipe = OnlineRecipe
"""How a batch changes the weights."""


class Verdict(StrEnum):
    """What a batch did."""

    APPLIED = "applied"
    NOTHING = "nothing"
    NON_FINITE = "non_finite"


@dataclass(frozen=True)
class StepReport:
    """One batch.

    Attributes:
        verdict: `nothing` where no event had a known item; `non_finite` where loss or gradient was not finite and the
            weights were left alone.
        loss: mean negative log-probability, nats; NaN for `nothing`.
        ndcg: (user, position) → NDCG@10 of that event, as numbered in the call's list; empty where the loss was not
            finite.
    """

    verdict: Verdict
    loss: float = float("nan")
    ndcg: dict[tuple[int, int], float] = field(default_factory=dict)


class Learner:
    """Owns the weights, the optimizer's state and the random state. For one thread.

    Deterministic: the same state, batches and number of torch threads give the same bits.

    Attributes:
        attends: whether `step` wants a batch without events, too: others wait for its part of a round.
    """

    attends = False

    def __init__(self, recommender: Recommender, recipe: Recipe) -> None:
        self._online = OnlineModel(recommender, recipe)

    @property
    def recommender(self) -> Recommender:
        """What scores, and is published: the average of the weights that learn (`OnlineRecipe.average`)."""
        return self._online.recommender

    @recommender.setter
    def recommender(self, grown: Recommender) -> None:
        self._online.recommender = grown

    def know(self, recommender: Recommender) -> None:
        """Name the items as `recommender`, over the same model, does; all weights have their rows already."""
        self._online.know(recommender)

    @property
    def learning(self) -> Any:
        """The model whose weights learn; `recommender.model` itself without an average."""
        return self._online.learning.model

    def batch(self, users: Sequence[UserUpdate]) -> OnlineBatch:
        """The tensors of some users' new events; they do not depend on the weights."""
        return online_batch(self.recommender, users)

    def step(
        self, users: Sequence[UserUpdate], past: Past | None = None, batch: OnlineBatch | None = None
    ) -> StepReport:
        """Score every event by the weights as they are, then take one step on all of them.

        Args:
            past: draws histories of past users, to be learned again beside the new events; None learns those alone.
            batch: of these users, where it has been made already.
        """
        batch = self.batch(users) if batch is None else batch
        if not batch.num_events:
            return StepReport(Verdict.NOTHING)
        scores = self.score(batch)
        if scores is None:
            return StepReport(Verdict.NON_FINITE)
        loss, norm = self._online.backward(batch, past)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            reach(FaultPoint.BATCH_GRADIENT_READY)
            self._online.step()
            self._online.imprint(batch)
        self._online.clear()
        return StepReport(Verdict.APPLIED if finite else Verdict.NON_FINITE, loss, scores)

    def score(self, batch: OnlineBatch) -> dict[tuple[int, int], float] | None:
        """(user, position) → NDCG@10 of a batch's events by the weights as they are; None where they aren't finite."""
        log_probabilities = self._online.score(batch)
        if not bool(torch.isfinite(log_probabilities).all()):
            return None
        scores = _prequential(batch, log_probabilities)
        reach(FaultPoint.BATCH_SCORED)
        return scores

    def is_finite(self) -> bool:
        """Whether every weight and every optimizer value is."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.state().values() if tensor.is_floating_point())

    def weights(self) -> dict[str, Tensor]:
        """The weights that are published, by checkpoint name, sharing memory."""
        return self._online.weights()

    def state(self) -> dict[str, Tensor]:
        """Weights, optimizer state and random state by name, sharing memory where they are tensors."""
        return self._online.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was. Raises ValueError for a state of another model; nothing has changed then."""
        self._online.load_state(state)


def _prequential(batch: OnlineBatch, log_probabilities: Tensor) -> dict[tuple[int, int], float]:
    """(user, position) → NDCG@10 among the items unseen before the event's block, ties at their expected rank."""
    ranks = tied_ranks(
        log_probabilities.cpu().numpy(),
        batch.event_row.cpu().numpy(),
        batch.target.cpu().numpy(),
        [block.before for block in batch.blocks],
    )
    events = [(block.user, position) for block in batch.blocks for position in block.positions]
    return dict(zip(events, ndcg(ranks).tolist(), strict=True))
