"""Training SASRec: epochs until a validation score stops rising, or a number of epochs found that way."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from catalogue.replay import Timeline
from evaluation.sasrec import Sasrec, SasrecSettings
from evaluation.sequences import Batch, Sequences
from recommender.losses import binary, full_softmax, gbce_beta, sampled_softmax

WARM_UP_STEPS = 100
CLIP_NORM = 5.0

Validate = Callable[[Sasrec], float]
OnEpoch = Callable[[int, float, float | None], None]


class SasrecTrainer:
    """One run over a timeline. Items without an event in it are no negatives: nothing is known against them."""

    def __init__(self, past: Timeline, settings: SasrecSettings, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        self.model = Sasrec(len(past.dataset.items), settings).to(device)
        self.steps = 0
        self._settings, self._device = settings, device
        self._sequences = Sequences(past, settings.window, from_block_start=settings.from_block_start)
        self._random = np.random.default_rng((seed, 1))
        counts = np.bincount(past.item, minlength=len(past.dataset.items))
        self._born = torch.from_numpy(np.flatnonzero(counts)).to(device)
        self._compact = torch.from_numpy(np.cumsum(counts > 0) - 1).to(device)
        self._log_q = torch.from_numpy(np.log(counts[counts > 0] / counts.sum())).float().to(device)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=settings.weight_decay,
            fused=device.type == "cuda",
        )

    def epoch(self) -> float:
        """Every event once; the mean loss."""
        self.model.train()
        losses = [
            self._step(batch)
            for batch in self._sequences.batches(self._settings.batch_rows, self._random, self._device)
        ]
        self.model.eval()
        return float(torch.stack(losses).mean())

    def _step(self, batch: Batch) -> Tensor:
        self.steps += 1
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * min(1.0, self.steps / WARM_UP_STEPS)
        loss = self._loss(batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self._optimizer.step()
        return loss.detach()

    def _loss(self, batch: Batch) -> Tensor:
        states = self.model(batch.items, batch.lengths).flatten(0, 1)[batch.states]
        rows, targets = self.model.rows[self._born], self._compact[batch.targets]
        own = self._settings
        match own.loss:
            case "full":
                return full_softmax(states, rows, targets, self._seen(batch, self._born))
            case "sampled":
                # A quarter uniform keeps the correction of rare items bounded.
                negatives = torch.multinomial(self._proposal, own.negatives, replacement=True)
                without = self._seen(batch, self._born[negatives])
                return sampled_softmax(states, rows, targets, negatives, self._proposal.log(), without)
            case "bce":
                return binary(states, rows, targets, self._own_negatives(batch, 1))
            case "gbce":
                beta = gbce_beta(len(rows), own.negatives, own.gbce_t)
                return binary(states, rows, targets, self._own_negatives(batch, own.negatives), beta)

    def _seen(self, batch: Batch, items: Tensor) -> Tensor | None:
        """`[E, len(items)]` bool: what the user had before the question, never the answer; None: all compete."""
        if not self._settings.mask_seen:
            return None
        columns = batch.items.shape[1]
        shape = (len(batch.items), self.model.num_items + 2)
        first = torch.full(shape, columns, dtype=torch.int64, device=self._device)
        place = torch.arange(columns, device=self._device).expand_as(batch.items)
        first.scatter_reduce_(1, batch.items, place, "amin")
        first[batch.earlier_rows, batch.earlier_items] = 0
        seen = first[:, items][batch.rows] <= (batch.states % columns)[:, None]
        return seen & (items[None, :] != batch.targets[:, None])

    @property
    def _proposal(self) -> Tensor:
        return 0.75 * self._log_q.exp() + 0.25 / len(self._log_q)

    def _own_negatives(self, batch: Batch, count: int) -> Tensor:
        """`[E, N]` uniform over the born items; -1 where the row holds the item, which is no negative then."""
        drawn = torch.randint(len(self._born), (len(batch.targets), count), device=self._device)
        held = torch.zeros(len(batch.items), self.model.num_items + 2, dtype=torch.bool, device=self._device)
        held.scatter_(1, batch.items, True)
        held[batch.rows, batch.targets] = True
        return drawn.masked_fill(held[batch.rows[:, None], self._born[drawn]], -1)


def train_until_best(
    trainer: SasrecTrainer,
    validate: Validate,
    max_epochs: int,
    patience: int,
    every: int = 1,
    on_epoch: OnEpoch = lambda epoch, loss, score: None,
) -> int:
    """Train until `patience` validations in a row brought nothing better; the model ends as it was at its best.

    Returns:
        the best number of epochs.
    """
    best, best_epoch, best_weights = -np.inf, 0, None
    for epoch in range(1, max_epochs + 1):
        loss = trainer.epoch()
        score = validate(trainer.model) if epoch % every == 0 or epoch == max_epochs else None
        on_epoch(epoch, loss, score)
        if score is None:
            continue
        if score > best:
            best, best_epoch = score, epoch
            best_weights = copy.deepcopy(trainer.model.state_dict())
        elif epoch - best_epoch >= patience * every:
            break
    if best_weights is not None:
        trainer.model.load_state_dict(best_weights)
    return best_epoch
