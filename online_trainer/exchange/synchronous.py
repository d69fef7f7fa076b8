"""`SynchronousExchange`: every worker's update in every step, by torch.distributed's collectives.

The same collectives serve as a DDP communication hook for any model: `slipstream.ddp`.
"""

from __future__ import annotations

import time

import torch
import torch.distributed as dist
from torch import Tensor

from online_trainer.exchange.collectives import Group, compressed_mean, dense_mean
from online_trainer.exchange.layout import cut
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.payloads import spec_of
from online_trainer.exchange.seam import GradientExchange, Traffic


class SynchronousExchange(GradientExchange):
    """A rank of a process group that is up. A rank that fails ends the group: c10d knows no members that come and go.

    Args:
        weights: `[n]` fp32, changed in place; after `join` they are rank 0's.
        rule: `learning_rate` is a factor on the mean update; `fragments` as in the asynchronous exchange.
        group: the process group; None for the default one.
    """

    def __init__(self, weights: Tensor, rule: Rule, group: Group = None) -> None:
        self._weights = weights
        self._rule = rule
        self._group = group
        self._residual = torch.zeros_like(weights)
        self._index = 0
        self._waited = 0.0
        self._sent = 0
        self._received = 0
        self._nonfinite: Tensor | int = 0

    @property
    def residual(self) -> Tensor:
        return self._residual

    @property
    def traffic(self) -> Traffic:
        """Payload bytes; a ring all-reduce sends 2 (N - 1) / N of its tensor, an all-gather N - 1 times its part."""
        return Traffic(self._sent, self._received, self._waited)

    def join(self) -> None:
        dist.broadcast(self._weights, src=0, group=self._group)
        dist.barrier(self._group)

    def exchange(self, update: Tensor) -> int:
        start, stop = 0, update.numel()
        if self._rule.fragments > 1:
            start, stop = cut(update.numel(), self._rule.fragments)[self._index % self._rule.fragments]
            self._residual[:start] += update[:start]
            self._residual[stop:] += update[stop:]
        if stop > start:
            mean = self._mean(update[start:stop], self._residual[start:stop])
            self._weights[start:stop].add_(mean, alpha=-self._rule.learning_rate)
        self._index += 1
        return self._index

    def refresh(self) -> int:
        return self._index

    @property
    def index(self) -> int:
        """Exchanges so far."""
        return self._index

    @property
    def nonfinite(self) -> int:
        """Elements of compressed updates that were not finite and counted as zero, so far."""
        return int(self._nonfinite)

    def restore(self, residual: Tensor, index: int) -> None:
        """Go on from a checkpoint: what was not sent, and how many exchanges there were."""
        self._residual.copy_(residual)
        self._index = index

    def leave(self) -> None:
        dist.barrier(self._group)

    def _count(self, nonfinite: Tensor) -> None:
        self._nonfinite = self._nonfinite + nonfinite

    def _mean(self, update: Tensor, residual: Tensor) -> Tensor:
        size = dist.get_world_size(self._group)
        if self._rule.compressed:
            spec = spec_of(self._rule)
            payload = spec.offsets(spec.num_chunks(update.numel()))[-1]
            moved = payload * (size - 1)
            future = compressed_mean(update, residual, spec, self._group, self._count)
        else:
            moved = 2 * 2 * update.numel() * (size - 1) // size
            total = update + residual
            torch.sub(total, total.bfloat16().float(), out=residual)
            future = dense_mean(total, self._group, total)
        started = time.monotonic()
        mean = future.wait()
        self._waited += time.monotonic() - started
        self._sent += moved
        self._received += moved
        return mean
