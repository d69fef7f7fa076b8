"""Asynchronous workers on a backlog, in virtual time: the trainer's own sequencer, replicas and payloads, one process.

The clock alone is simulated: a batch takes `seconds_per_event` × its events × the worker's slowness, a push its bytes
over the link. Everything else is what `slipstream train --workers N --exchange async` runs. So a run is a function of
its seed, whatever else the machine does, and a straggler costs no waiting.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from catalogue.replay import Timeline
from evaluation.backlog import PARTITIONS, Backlog, Checkpoint, Run
from evaluation.ours import own_copy
from online_trainer.exchange import payloads
from online_trainer.exchange.layout import bind
from online_trainer.exchange.messages import Measured, Push, Ranges
from online_trainer.exchange.replica import Replica
from online_trainer.exchange.sequencer import GroupSettings, Sequencer
from online_trainer.learner import Learner, Verdict
from online_trainer.ledger import LedgerRow
from recommender.loading import Recommender
from recommender.recipe import ONLINE, OnlineRecipe

_ASK_SECONDS = 0.1


@dataclass(frozen=True)
class GroupRun(Run):
    """Workers that do not wait for one another.

    Attributes:
        balanced: partitions and batch sizes follow measured speeds.
        staleness_bound: see `GroupSettings`.
    """

    balanced: bool = False
    staleness_bound: int = 16


@dataclass
class _Worker:
    number: int
    learner: Learner
    learning: Tensor
    serving: Tensor
    residual: Tensor
    seq: int = 0
    held: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        return f"worker-{self.number}"


class SimulatedGroup:
    """Trains the events of `line` from position `start` on.

    Attributes:
        seconds: virtual time. events: trained so far.
        ndcg: position in the timeline → NDCG@10 before the event was trained.
        staleness: of each push. sent_bytes, dense_bytes: of payloads, and the same updates as fp32.
    """

    def __init__(
        self,
        recommender: Recommender,
        line: Timeline,
        start: int,
        run: GroupRun,
        recipe: OnlineRecipe = ONLINE,
        seed: int = 0,
    ) -> None:
        self.run = run
        self.seconds, self.events = 0.0, 0
        self.ndcg: dict[int, float] = {}
        self.staleness: list[int] = []
        self.sent_bytes = self.dense_bytes = 0
        self._backlog = Backlog(line, start, seed)
        owner = own_copy(recommender)
        self.layout, weights = bind(owner.model)
        self.replica = Replica(weights, msgspec.structs.replace(run.rule, average=recipe.average))
        group = GroupSettings(
            staleness_bound=max(run.staleness_bound, run.workers),
            staleness_power=run.rule.staleness_power,
            lease_seconds=1e12,
            batch_events=run.batch_events,
            balance_seconds=1.0 if run.balanced else 0.0,
        )
        self.sequencer = Sequencer(dict.fromkeys(range(PARTITIONS), 0), group, frozenset())
        self._workers = [self._worker(n, recommender, recipe, seed) for n in range(run.workers)]
        for worker in self._workers:
            self.sequencer.join(worker.name, 1, 0.0)
        self.sequencer.assignment.aim({p: f"worker-{p % run.workers}" for p in range(PARTITIONS)})
        for worker in self._workers:
            self.sequencer.hear(worker.name, 1, self.sequencer.assignment.generation, 0.0)

    def train(self, every_events: int, on_checkpoint: Callable[[Checkpoint], None]) -> None:
        """To the backlog's end; tells the weights at its start, every so many events, and at its end."""
        order = itertools.count()
        arriving: list[tuple[float, int, _Worker, Push | None]] = []
        data: dict[str, bytes] = {}

        def begin(worker: _Worker) -> None:
            push, payload = self._compute(worker)
            seconds = _ASK_SECONDS
            if push is not None:
                data[worker.name] = payload
                seconds = push.measured.compute_seconds
                if self.run.link_bytes_per_second:
                    seconds += (1 + self.run.workers) * len(payload) / self.run.link_bytes_per_second
            if push is not None or self._backlog:
                heapq.heappush(arriving, (self.seconds + seconds, next(order), worker, push))

        on_checkpoint(self._checkpoint())
        for worker in self._workers:
            begin(worker)
        told = 0
        while arriving:
            self.seconds, _, worker, push = heapq.heappop(arriving)
            if push is None:
                self.sequencer.hear(worker.name, 1, self.sequencer.assignment.generation, self.seconds)
                begin(worker)
            elif (verdict := self.sequencer.submit(push, self.seconds)) is not None:
                raise AssertionError(f"{worker.name}: {verdict}")
            self.sequencer.rebalance(self.seconds)
            for made, pushes in self.sequencer.ready():
                self.replica.apply(made, [data.pop(one.worker) for one in pushes])
                self.staleness += [pushed.staleness for pushed in made.pushes]
                self.events += sum(one.examples for one in pushes)
                for one in pushes:
                    again = self._workers[int(one.worker.rpartition("-")[2])]
                    again.seq = one.seq
                    begin(again)
            if self.events - told >= every_events:
                told = self.events
                on_checkpoint(self._checkpoint())
        on_checkpoint(self._checkpoint())

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.seconds, self.events, self.replica.serving.clone())

    def _worker(self, number: int, recommender: Recommender, recipe: OnlineRecipe, seed: int) -> _Worker:
        learner = Learner(own_copy(recommender), msgspec.structs.replace(recipe, seed=1000 * seed + number))
        _, learning = bind(learner.learning)
        serving = bind(learner.recommender.model)[1] if recipe.average else learning
        return _Worker(number, learner, learning, serving, torch.zeros_like(learning))

    def _compute(self, worker: _Worker) -> tuple[Push | None, bytes]:
        """A batch on the newest weights, as a push that has yet to arrive; None when nothing waits for the worker."""
        self.sequencer.told(worker.name, idle=False)
        base, generation = self.sequencer.index, self.sequencer.assignment.generation
        worker.learning.copy_(torch.sub(self.replica.weights, worker.residual, alpha=self.run.rule.learning_rate))
        ahead = worker.learning.clone()
        if worker.serving is not worker.learning:
            worker.serving.copy_(self.replica.serving)
        size = self.sequencer.members[worker.name].batch_events
        held = self.sequencer.partitions_of(worker.name)
        positions = self._backlog.take(held, size * self.run.rule.local_steps)
        if not positions:
            self.sequencer.told(worker.name, idle=True)
            return None, b""
        for first in range(0, len(positions), size):
            self._step(worker, positions[first : first + size])
        update = ahead - worker.learning
        encoded = payloads.encode(update, worker.residual, self.run.rule)
        self.sent_bytes += len(encoded.data)
        self.dense_bytes += 4 * update.numel()
        push = Push(
            worker=worker.name, incarnation=1, seq=worker.seq + 1, generation=generation, base=base,
            ranges=self._ranges(positions, held), rows=self._rows(positions), encoding=encoded.encoding, start=0,
            stop=update.numel(), residual_norm=0.0, waiting={p: self._backlog.waiting(p) for p in held},
            measured=Measured(compute_seconds=self.run.compute_seconds(worker.number, len(positions))),
        )  # fmt: skip
        return push, encoded.data

    def _ranges(self, positions: list[int], held: dict[int, int]) -> Ranges:
        counts = Counter(self._backlog.partition[positions].tolist())
        return {p: (held[p], held[p] + count) for p, count in counts.items()}

    def _rows(self, positions: list[int]) -> list[LedgerRow]:
        partitions = self._backlog.partition[positions].tolist()
        return [
            LedgerRow(partition=p, offset=o, batch=0, trained=True) for p, o in zip(partitions, positions, strict=True)
        ]

    def _step(self, worker: _Worker, positions: list[int]) -> None:
        updates, groups = self._backlog.updates(positions)
        report = worker.learner.step(updates, self._backlog.histories.draw)
        assert report.verdict is not Verdict.NON_FINITE, "a loss that is not finite"  # noqa: S101
        self.ndcg |= {groups[user][place]: value for (user, place), value in report.ndcg.items()}
        self._backlog.remember(positions)


__all__ = ["GroupRun", "SimulatedGroup"]
