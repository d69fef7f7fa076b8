"""Weights that learn from a stream, and their running average, which serves."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from recommender.dropout import residual_dropout
from recommender.examples import OnlineBatch
from recommender.imprinting import Imprinting
from recommender.loading import Recommender, checkpoint_tensors, item_tables, load_tensors
from recommender.recipe import OnlineRecipe
from recommender.replay import Past, replay_windows
from recommender.scoring import item_log_probabilities
from recommender.tensor_adamw import TensorAdamW
from recommender.training import batch_states, online_loss
from recommender.windows import Window, last_windows, window_batch, window_loss

_SERVING, _LEARNING, _OPTIMIZER, _RANDOM = "model.", "learning.", "optimizer.", "random.torch"
_TAKEN, _MEAN = "imprinting.taken", "imprinting.mean"


class Averaged(NamedTuple):
    """A step whose gradient is the mean over a group's ranks.

    Attributes:
        ranks: in the group.
        active: those of them that have events; the others' gradients are zero.
        events: of all.
    """

    ranks: int
    active: int
    events: int


class OnlineModel:
    """A recommender and the weights behind it that learn. For one thread.

    Deterministic: dropout and replay draw from a random state of its own, which the caller's draws do not touch.

    The steps run at a constant rate, so the weights that learn jitter around the path they follow. The exponential
    moving average of them does not (Polyak and Juditsky 1992), and scores better: it is what is scored and released.
    """

    def __init__(self, recommender: Recommender, recipe: OnlineRecipe) -> None:
        self._serving = recommender
        self._recipe = recipe
        model = copy.deepcopy(recommender.model) if recipe.average else recommender.model
        self._learning = Recommender(model, recommender.vocabulary, recommender.prompt)
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._random = self._next_random = torch.Generator().manual_seed(recipe.seed).get_state()
        kind = TensorAdamW if recipe.second_moment == "tensor" else torch.optim.AdamW
        self._optimizer: torch.optim.Optimizer = kind(
            model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self._imprinting = Imprinting(recommender, recipe.imprint, recipe.imprint_below) if recipe.imprint else None
        self._asked: Tensor | None = None

    @property
    def recommender(self) -> Recommender:
        """What serves. Setting one over the same model (items were added) gives the new rows to what learns, too."""
        return self._serving

    @recommender.setter
    def recommender(self, grown: Recommender) -> None:
        if grown.model is not self._serving.model:
            raise ValueError("that is another model; make a new OnlineModel for it")
        new = range(self._learning.vocabulary.item_tokens.stop, grown.vocabulary.item_tokens.stop)
        if new and self._recipe.average:
            learning = item_tables(self._learning)
            for name, served in item_tables(grown).items():
                learning[name][new.start : new.stop] = served[new.start : new.stop]
        self.know(grown)

    def know(self, recommender: Recommender) -> None:
        """Name the items as `recommender`, over the same model, does; both sets of weights have their rows already."""
        self._serving = recommender
        self._learning = Recommender(self._learning.model, recommender.vocabulary, recommender.prompt)

    @property
    def learning(self) -> Recommender:
        """The weights that learn; `recommender` itself without an average."""
        return self._learning

    def score(self, batch: OnlineBatch) -> Tensor:
        """`[B, num_items]` log-probabilities by the weights that serve, before any step on the batch.

        Event e was given `[batch.event_row[e], batch.target[e]]`.
        """
        with torch.inference_mode():
            self._asked = batch_states(self._serving, batch)
            return item_log_probabilities(self._serving, self._asked)

    def imprint(self, batch: OnlineBatch) -> None:
        """Behind a step on the batch that was scored last: move the rows of its young items (`Imprinting`)."""
        if self._imprinting is None or self._asked is None:
            return
        apart = self._learning.model is not self._serving.model
        self._imprinting.move(batch, self._asked, [self._serving, self._learning] if apart else [self._serving])
        self._asked = None

    def backward(self, batch: OnlineBatch, past: Past | None = None) -> tuple[float, float]:
        """Gradients of the batch's loss, and of the replayed past's.

        Returns:
            the new events' mean loss, and the whole gradient's norm before clipping; either may not be finite, and then
            `step` must not be called.

        Raises:
            ValueError: a batch without events.
        """
        loss = self.gradients(batch, past)
        return loss, self.clip()

    def gradients(self, batch: OnlineBatch, past: Past | None = None, averaged: Averaged | None = None) -> float:
        """`backward` without clipping, for a group that averages gradients over its ranks first.

        Args:
            averaged: what the batch is a part of; None: it is the whole step.

        Returns the new events' mean loss; where it is not finite there are no gradients.
        """
        model = self._learning.model.train()
        averaged = averaged or Averaged(1, 1, batch.num_events)
        with self._own_random_state(), residual_dropout(model, self._recipe.dropout):
            new = self._new_loss(batch)
            loss = float(new.detach())
            if math.isfinite(loss):
                self._with_replay(new, batch, past, averaged).backward()
        model.eval()
        return loss

    def clip(self) -> float:
        """Scale the gradients down to the recipe's norm; returns the norm before."""
        norm = torch.nn.utils.clip_grad_norm_(self._learning.model.parameters(), self._recipe.clip_norm)
        return float(norm)

    def _new_loss(self, batch: OnlineBatch) -> Tensor:
        """Mean loss of the new events, or of their users' last windows."""
        if not self._recipe.whole_windows or not batch.num_events:
            return online_loss(self._learning, batch, self._recipe.mask_seen)
        return self._window_loss(last_windows(self._learning, batch))

    def _window_loss(self, windows: Sequence[Window]) -> Tensor:
        return window_loss(self._learning, window_batch(self._learning, windows, self._recipe.mask_seen))

    def _with_replay(self, new: Tensor, batch: OnlineBatch, past: Past | None, averaged: Averaged) -> Tensor:
        """The loss of the new events and of the past that is drawn; of the new alone when none is.

        The mean over `averaged.ranks` of what every rank returns is what one would that has all their events.
        """
        count = self._recipe.replay_windows
        windows = replay_windows(self._learning, past(count)) if past is not None and count else []
        if not windows:
            return averaged.ranks * batch.num_events / averaged.events * new
        replayed = self._window_loss(windows)
        event_weight = averaged.ranks * self._recipe.event_weight
        return averaged.ranks / averaged.active * replayed + event_weight * batch.num_events * new

    @contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """In here torch draws from this model's state, which `step` then moves on; a refused batch leaves it."""
        device = self._learning.head.weight.device
        on_gpu = device.type == "cuda"
        # Only the GPU that is used: each further one would cost a context of half a GB.
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            torch.set_rng_state(self._random)
            if on_gpu:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(int(torch.randint(2**31, ())))
            yield
            self._next_random = torch.get_rng_state()

    def step(self) -> None:
        """Move the weights by the gradients, and the average after them."""
        self._optimizer.step()
        self._random = self._next_random
        if self._recipe.average:
            learning = checkpoint_tensors(self._learning.model)
            for name, served in checkpoint_tensors(self._serving.model).items():
                served.lerp_(learning[name], 1 - self._recipe.average)

    def clear(self) -> None:
        """Forget the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, Tensor]:
        """The weights that serve, by checkpoint name, sharing memory."""
        return checkpoint_tensors(self._serving.model)

    def state(self) -> dict[str, Tensor]:
        """All weights, the optimizer's and the random state by name, sharing memory with them."""
        state = {_RANDOM: self._random} | {_SERVING + name: tensor for name, tensor in self.weights().items()}
        if self._recipe.average:
            state |= {_LEARNING + name: t for name, t in checkpoint_tensors(self._learning.model).items()}
        if self._imprinting is not None:
            state |= {_TAKEN: self._imprinting.taken, _MEAN: self._imprinting.mean}
        for parameter, values in self._optimizer.state.items():
            for key, value in values.items():
                state[f"{_OPTIMIZER}{key}.{self._names[id(parameter)]}"] = value
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was. Raises ValueError for another model's or recipe's; nothing has changed then."""
        kinds = {name.removeprefix(_OPTIMIZER).partition(".")[0] for name in state if name.startswith(_OPTIMIZER)}
        if kinds and ("mean_square" in kinds) != (self._recipe.second_moment == "tensor"):
            raise ValueError("the state was written by a recipe with another `second_moment`; go on with the same")
        parts: dict[str, dict[str, Tensor]] = {_SERVING: {}, _LEARNING: {}}
        for name, tensor in state.items():
            for prefix, tensors in parts.items():
                if name.startswith(prefix):
                    tensors[name.removeprefix(prefix)] = tensor
        if (_TAKEN in state) != (self._imprinting is not None):
            raise ValueError("the state was written by a recipe with another `imprint`; go on with the same")
        if bool(parts[_LEARNING]) != bool(self._recipe.average):
            raise ValueError("the state was written by a recipe with another `average`; go on with the same")
        if self._recipe.average:
            load_tensors(self._learning.model, parts[_LEARNING])
        load_tensors(self._serving.model, parts[_SERVING])
        self._random = self._next_random = state[_RANDOM].clone()
        if self._imprinting is not None:
            self._imprinting.taken.copy_(state[_TAKEN])
            self._imprinting.mean = state[_MEAN].clone().to(self._imprinting.mean.device)
        self._optimizer.state.clear()
        self.clear()
        parameters = dict(self._learning.model.named_parameters())
        for name, tensor in state.items():
            if name.startswith(_OPTIMIZER):
                key, _, parameter = name.removeprefix(_OPTIMIZER).partition(".")
                owner = parameters[parameter]
                # The step count stays where AdamW looks for it.
                moved = tensor.clone() if key == "step" else tensor.clone().to(owner.device)
                self._optimizer.state[owner][key] = moved
