"""The model and its optimizer: score a batch with the weights as they are, then step on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor

from online_trainer.fault_points import FaultPoint, reach
from recommender.examples import OnlineBatch, UserUpdate, online_batch
from recommender.loading import Recommender, checkpoint_tensors, load_tensors
from recommender.ranking import ndcg, tied_ranks
from recommender.training import online_loss

_MODEL, _OPTIMIZER, _RANDOM = "model.", "optimizer.", "random.torch"


@dataclass(frozen=True)
class Recipe:
    """How a batch changes the weights: AdamW (Loshchilov and Hutter 2019) on the clipped mean loss.

    Attributes:
        learning_rate: constant; a stream has no end to decay towards.
        betas, weight_decay: AdamW's.
        clip_norm: gradients are scaled down to this L2 norm.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip_norm: float = 1.0


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
    """

    def __init__(self, recommender: Recommender, recipe: Recipe) -> None:
        self.recommender = recommender
        self._recipe = recipe
        self._names = {id(parameter): name for name, parameter in recommender.model.named_parameters()}
        self._optimizer = torch.optim.AdamW(
            recommender.model.parameters(),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
        )

    def step(self, users: Sequence[UserUpdate]) -> StepReport:
        """Score every event by the weights as they are, then take one step on all of them."""
        batch = online_batch(self.recommender, users)
        if not batch.num_events:
            return StepReport(Verdict.NOTHING)
        loss, log_probabilities = online_loss(self.recommender, batch)
        if not torch.isfinite(loss):
            return StepReport(Verdict.NON_FINITE, float(loss.detach()))
        scores = _prequential(batch, log_probabilities)
        reach(FaultPoint.BATCH_SCORED)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.recommender.model.parameters(), self._recipe.clip_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            reach(FaultPoint.BATCH_GRADIENT_READY)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepReport(Verdict.APPLIED if finite else Verdict.NON_FINITE, float(loss.detach()), scores)

    def is_finite(self) -> bool:
        """Whether every weight and every optimizer value is."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.state().values() if tensor.is_floating_point())

    def weights(self) -> dict[str, Tensor]:
        """The weights by checkpoint name, sharing memory."""
        return checkpoint_tensors(self.recommender.model)

    def state(self) -> dict[str, Tensor]:
        """Weights, optimizer state and random state by name, sharing memory where they are tensors."""
        state = {_MODEL + name: tensor for name, tensor in self.weights().items()}
        for parameter, values in self._optimizer.state.items():
            for key, value in values.items():
                state[f"{_OPTIMIZER}{key}.{self._names[id(parameter)]}"] = value
        state[_RANDOM] = torch.get_rng_state()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was. Raises ValueError for a state of another model; nothing has changed then."""
        model = self.recommender.model
        load_tensors(model, {n.removeprefix(_MODEL): t for n, t in state.items() if n.startswith(_MODEL)})
        self._optimizer.state.clear()
        self._optimizer.zero_grad(set_to_none=True)
        parameters = dict(model.named_parameters())
        for name, tensor in state.items():
            if name.startswith(_OPTIMIZER):
                key, _, parameter = name.removeprefix(_OPTIMIZER).partition(".")
                self._optimizer.state[parameters[parameter]][key] = tensor.clone()
        torch.set_rng_state(state[_RANDOM].clone())


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
