"""Rank 0's part in a release: when it is due, as which version, and getting it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from online_trainer.checkpoint import CheckpointState
from online_trainer.metrics import TrainerMetrics
from online_trainer.progress import Progress
from online_trainer.publisher import Publisher
from online_trainer.publishing import Publishing
from online_trainer.rounds.word import Word
from online_trainer.settings import TrainerSettings


class Writer:
    """The model's writer, for its group."""

    def __init__(self, settings: TrainerSettings, publisher: Publisher, metrics: TrainerMetrics) -> None:
        self._publisher = publisher
        self._publishing = Publishing(settings, publisher, metrics)
        self._trained = 0
        self._free: int | None = None

    def hear(self, words: Sequence[Word]) -> None:
        """What the ranks have trained since the last agreement."""
        self._trained += sum(int(word.trained) for word in words)

    def version(self, progress: Progress, now: bool) -> int:
        """To commit and publish as; 0 when that is not due and not asked for `now`."""
        assert progress.committed is not None, "a group commits before it trains"  # noqa: S101
        committed = progress.committed.version
        if self._free is not None:
            return self._free
        if not now and not self._publishing.is_due(committed, self._trained, progress.uncommitted):
            return 0
        waits = committed > self._publishing.published
        return committed + bool(self._trained) if progress.uncommitted or waits else 0

    def begin(self) -> None:
        """A release begins."""
        self._publishing.begin()

    def committed(self) -> None:
        """What was trained is in a checkpoint now."""
        self._trained, self._free = 0, None

    def publish(self, state: CheckpointState, weights: Mapping[str, Tensor]) -> None:
        """Publish and announce what the group has committed, unless it is out. Raises WriterReplaced."""
        if state.version > self._publishing.published and not self._publishing.waits:
            self._free = self._publishing.settle(state, lambda: self._publishing.write(state, weights))

    def hurry(self) -> None:
        """Do not wait with the next try at a store that could not be reached: training ends."""
        self._publishing.hurry()

    def close(self) -> None:
        """Disconnect."""
        self._publisher.close()
