"""What rank 0 tells Prometheus of the whole group, from the words before each round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from online_trainer.exchange.metrics import ExchangeMetrics
from online_trainer.ledger import Untrained
from online_trainer.metrics import TrainerMetrics
from online_trainer.rounds.word import Word


class RoundMetrics:
    """Fills `TrainerMetrics` and `ExchangeMetrics`, the same names as for every way to train.

    Args:
        num_elements: of the gradient.
    """

    def __init__(self, metrics: TrainerMetrics, rank: int, num_elements: int) -> None:
        self._trainer = metrics
        self._exchange = ExchangeMetrics(metrics.registry)
        self._rank = rank
        self._num_elements = num_elements
        self._before: list[Word] = []

    def show(self, words: Sequence[Word], round_ended: bool) -> None:
        """What the ranks said; `round_ended`: since the last words there was a round."""
        trainer, exchange = self._trainer, self._exchange
        before = self._before or [Word()] * len(words)
        self._before = list(words)
        exchange.workers.set(len(words))
        trainer.lag_events.set(sum(word.lag_events for word in words))
        if not round_ended:
            return
        for rank, (word, last) in enumerate(zip(words, before, strict=True)):
            self._count(rank, word, last)
        active = [word for word in words if word.trained]
        trainer.lag_seconds.set(max(word.lag_seconds for word in words))
        if active:
            events = sum(word.trained for word in active)
            trainer.steps.inc()
            trainer.examples.inc(events)
            trainer.loss.set(sum(word.loss * word.trained for word in active) / events)
            exchange.staleness.observe(0)
        if any(word.refused for word in words):
            trainer.non_finite.inc()

    def balance(self, speeds: Mapping[int, float], sizes: Mapping[int, int]) -> None:
        """Events a second of each rank, and of its next batch."""
        for rank, speed in speeds.items():
            self._exchange.speed.labels(_name(rank)).set(speed)
            self._exchange.batch_events.labels(_name(rank)).set(sizes[rank])

    def encoding(self, compressed: bool | None) -> None:
        """How the round's gradients go."""
        if compressed is not None:
            self._exchange.compressed.set(compressed)

    def disk(self, full: bool) -> None:
        """Whether a rank's disk is."""
        self._trainer.disk_full.set(full)

    def _count(self, rank: int, word: Word, last: Word) -> None:
        trainer, exchange = self._trainer, self._exchange
        trainer.ndcg_sum.inc(word.ndcg_sum)
        exchange.pushes.labels(_name(rank)).inc()
        exchange.compute_seconds.labels(_name(rank)).inc(word.compute_seconds)
        exchange.exchange_seconds.labels("exposed").inc(word.waited_seconds - last.waited_seconds)
        exchange.exchange_seconds.labels("hidden").inc(word.hidden_seconds - last.hidden_seconds)
        moved = word.sent_bytes - last.sent_bytes
        exchange.wire_bytes.labels("sent").inc(moved)
        exchange.wire_bytes.labels("received").inc(moved)
        exchange.dense_bytes.inc(4 * self._num_elements)
        exchange.nonfinite.inc(word.nonfinite - last.nonfinite)
        if rank != self._rank:
            # Rank 0's admission has counted its own.
            _add(trainer.untrained, Untrained.UNREADABLE, word.unreadable)
            _add(trainer.untrained, Untrained.DUPLICATE, word.duplicate)
            _add(trainer.untrained, Untrained.UNKNOWN_ITEM, word.unknown)


def _name(rank: int) -> str:
    return f"worker-{rank}"


def _add(counter: Any, reason: Untrained, count: float) -> None:
    counter.labels(reason.value).inc(count)
