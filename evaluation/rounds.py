"""Synchronous workers on a backlog, in virtual time: ranks that all take one step by the mean of their gradients.

What `slipstream train --workers N --exchange sync` does, and DDP: each rank's loss counts by its share of the round's
events, the mean gradient is clipped, and every rank takes the same AdamW step. The clock alone is simulated: a round
takes as long as its slowest worker's batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from catalogue.replay import Timeline
from evaluation.backlog import PARTITIONS, Backlog, Checkpoint, Run
from evaluation.ours import own_copy
from kernels.compress import compress
from kernels.decompress_accumulate import decompress_accumulate
from online_trainer.exchange.layout import FlatLayout
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.payloads import spec_of
from recommender.examples import online_batch
from recommender.loading import Recommender
from recommender.online import Averaged, OnlineModel
from recommender.recipe import ONLINE, OnlineRecipe


@dataclass(frozen=True)
class RoundsRun(Run):
    """Workers that wait for one another in every round."""


@dataclass
class _Rank:
    """A worker: weights, optimizer and random state of its own, the first two the same on every rank.

    Attributes:
        gradient: `[n]` fp32, every parameter's `.grad` a view of it, last layers first: what is exchanged.
        residual: `[n]` fp32, what compression has kept back.
    """

    number: int
    online: OnlineModel
    gradient: Tensor
    residual: Tensor


class SimulatedRounds:
    """Trains the events of `line` from position `start` on.

    Attributes:
        seconds: virtual time.
        trained: positions in the timeline, in the order they were.
        staleness: of each gradient: none has any.
        sent_bytes, dense_bytes: of payloads, and the same gradients as fp32.
    """

    def __init__(
        self,
        recommender: Recommender,
        line: Timeline,
        start: int,
        run: RoundsRun,
        recipe: OnlineRecipe = ONLINE,
        seed: int = 0,
    ) -> None:
        self.run = run
        self.seconds = 0.0
        self.trained: list[int] = []
        self.staleness = [0]
        self.sent_bytes = self.dense_bytes = 0
        self._backlog = Backlog(line, start, seed)
        self.ranks = [_rank(number, recommender, recipe, seed) for number in range(run.workers)]
        self.layout = FlatLayout.of(self.ranks[0].online.weights())

    @property
    def events(self) -> int:
        """Trained so far."""
        return len(self.trained)

    def train(self, every_events: int, on_checkpoint: Callable[[Checkpoint], None]) -> None:
        """To the backlog's end; tells the weights at its start, every so many events, and at its end."""
        on_checkpoint(self._checkpoint())
        told = 0
        while self._backlog:
            self._round()
            if self.events - told >= every_events:
                told = self.events
                on_checkpoint(self._checkpoint())
        on_checkpoint(self._checkpoint())

    def _checkpoint(self) -> Checkpoint:
        weights = torch.cat([tensor.flatten() for tensor in self.ranks[0].online.weights().values()])
        return Checkpoint(self.seconds, self.events, weights)

    def _round(self) -> None:
        size, workers = self.run.batch_events, self.run.workers
        taken = [self._backlog.take(range(n, PARTITIONS, workers), size) for n in range(workers)]
        self._gradients(taken)
        mean, sent = mean_gradient([r.gradient for r in self.ranks], [r.residual for r in self.ranks], self.run.rule)
        for rank in self.ranks:
            rank.gradient.copy_(mean)
            _step(rank.online)
        for positions in taken:
            self._backlog.remember(positions)
            self.trained += positions
        self.sent_bytes += workers * sent
        self.dense_bytes += workers * 4 * mean.numel()
        self.seconds += max(self.run.compute_seconds(n, len(positions)) for n, positions in enumerate(taken))
        self.seconds += self._link_seconds(sent)

    def _gradients(self, taken: Sequence[Sequence[int]]) -> None:
        """Each rank's own, of its batch's part in the round; zero where it has no events."""
        updates = [self._backlog.updates(positions)[0] for positions in taken]
        batches = [online_batch(rank.online.recommender, part) for rank, part in zip(self.ranks, updates, strict=True)]
        events = [batch.num_events for batch in batches]
        averaged = Averaged(len(events), active=sum(map(bool, events)), events=sum(events))
        for rank, batch in zip(self.ranks, batches, strict=True):
            rank.gradient.zero_()
            if batch.num_events:
                loss = rank.online.gradients(batch, self._backlog.histories.draw, averaged)
                assert math.isfinite(loss), "a loss that is not finite"  # noqa: S101

    def _link_seconds(self, sent_bytes: int) -> float:
        """Payloads go to every other rank; a ring's all-reduce of a dense one takes two turns of its N-th parts."""
        if not self.run.link_bytes_per_second:
            return 0.0
        others = self.run.workers - 1
        turns = others if self.run.rule.compressed else 2 * others / self.run.workers
        return turns * sent_bytes / self.run.link_bytes_per_second


def mean_gradient(gradients: Sequence[Tensor], residuals: Sequence[Tensor], rule: Rule) -> tuple[Tensor, int]:
    """The mean over ranks as the collectives make it, `[n]` fp32 and each rank's `[n]`; and the bytes a rank sends.

    A dense one is of bf16 gradients; compressed, each rank's residual keeps what it has not sent.
    """
    size = len(gradients)
    if not rule.compressed:
        sent = torch.stack([gradient.bfloat16().float() for gradient in gradients])
        return sent.sum(0).div_(size), 2 * gradients[0].numel()
    payloads = [
        compress(gradient, residual, spec_of(rule)).payload
        for gradient, residual in zip(gradients, residuals, strict=True)
    ]
    mean = decompress_accumulate(payloads, torch.empty_like(gradients[0]), [1.0 / size] * size)
    return mean, payloads[0].num_bytes


def _rank(number: int, recommender: Recommender, recipe: OnlineRecipe, seed: int) -> _Rank:
    online = OnlineModel(own_copy(recommender), msgspec.structs.replace(recipe, seed=1000 * seed + number))
    # As `OverlappedGradients` fills its buckets.
    parameters: list[Any] = [p for p in reversed(list(online.learning.model.parameters())) if p.requires_grad]
    gradient = torch.zeros(sum(parameter.numel() for parameter in parameters))
    for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view(parameter.shape)
    return _Rank(number, online, gradient, torch.zeros_like(gradient))


def _step(online: OnlineModel) -> None:
    norm = online.clip()
    assert math.isfinite(norm), "a gradient that is not finite"  # noqa: S101
    online.step()
