"""Checkpoints and releases of the owner's weights: committed between two turns, published beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import structlog
import torch
from torch import Tensor

from online_trainer.append_file import is_disk_full
from online_trainer.checkpoint import CheckpointState
from online_trainer.exchange.owner import Owner
from online_trainer.exchange.tensor_bytes import from_bytes
from online_trainer.exchange.write_ahead import WriteAheadLog
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.journal import Journal, Passed
from online_trainer.metrics import TrainerMetrics
from online_trainer.progress import NonFiniteWeights, Progress
from online_trainer.publisher import Publisher
from online_trainer.publishing import Publishing
from online_trainer.settings import TrainerSettings

_log = structlog.get_logger(__name__)


class StartOver(Exception):
    """The weights were not finite; the orders since the last checkpoint are passed over by the next start."""


class Releaser:
    """For the owner's thread; the publisher runs in one of its own, one release at a time.

    Args:
        serving: the own shard of the weights that serve, `[n]` fp32, live.
        views: the tensors by name, of the whole vector.
        owner: whose `cut` the other shards' owners follow.
        shards: owners in all.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        progress: Progress,
        journal: Journal,
        log: WriteAheadLog,
        publisher: Publisher,
        metrics: TrainerMetrics,
        serving: Tensor,
        views: Callable[[Tensor], Mapping[str, Tensor]],
        owner: Owner,
        shards: int,
    ) -> None:
        self._progress = progress
        self._journal = journal
        self._log = log
        self._publisher = publisher
        self._metrics = metrics
        self._serving = serving
        self._views = views
        self._owner = owner
        self._shards = shards
        self._pieces: dict[int, Tensor] = {}
        self._awaited: CheckpointState | None = None
        owner.on_piece = self._piece
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._publishing: Future[int] | None = None
        self._outcome = Publishing(settings, publisher, metrics)

    @property
    def state(self) -> CheckpointState:
        """The newest committed checkpoint."""
        assert self._progress.committed is not None, "the first start commits"  # noqa: S101
        return self._progress.committed

    @property
    def published(self) -> int:
        """Newest version that is out; 0 before the first."""
        return self._outcome.published

    @property
    def busy(self) -> bool:
        """Whether a release is on its way."""
        return self._publishing is not None or self._awaited is not None

    @property
    def finished(self) -> bool:
        """Whether everything is committed and published, as far as that was possible."""
        return not self.busy and not self._progress.uncommitted and self.state.version <= self._outcome.published

    @property
    def waits(self) -> bool:
        """Whether the last try found the store out of reach, and the next one is not due."""
        return not self.busy and self._outcome.waits

    def turn(self, now: bool = False) -> None:
        """Commit and publish when it is time, or `now`.

        Raises:
            WriterReplaced: another owner publishes this model now. StartOver: restart this owner.
        """
        if self._publishing is not None and self._publishing.done():
            self._finish(self._publishing)
        if self.busy or not (now or self._is_due()):
            return
        self._outcome.begin()
        if self._progress.uncommitted and not self.commit(self.state.version + self._progress.uncommitted_training):
            return
        if self.state.version > self._outcome.published and not self.waits:
            self._publish()

    def hurry(self) -> None:
        """Do not wait with the next try at a store that could not be reached: training ends."""
        self._outcome.hurry()

    def commit(self, version: int) -> bool:
        """Make weights, offsets and ledger durable as one; False when the disk is full. Raises StartOver."""
        before = self.state.plans_applied
        try:
            state = self._progress.commit(version)
        except NonFiniteWeights as error:
            self._metrics.non_finite.inc()
            first, last = before + 1, self._progress.plans_applied
            self._journal.append(Passed(first=first, last=last))
            _log.error("weights_not_finite", passed_orders=[first, last])
            raise StartOver(f"orders {first} to {last} led to weights that are not finite") from error
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._metrics.disk_full.set(1)
            _log.error("disk_full", what="the checkpoint", effect="training goes on, publishing stops")
            return False
        reach(FaultPoint.OWNER_COMMITTED)
        self._metrics.disk_full.set(0)
        others = [self._owner.cuts.get(shard, 0) for shard in range(1, self._shards)]
        self._log.rotate(state.plans_applied, keep_after=min([before, *others]))
        reach(FaultPoint.OWNER_ROTATED)
        return True

    def close(self) -> None:
        """Wait for what is being published."""
        self._thread.shutdown(wait=True)
        self._publisher.close()

    def _is_due(self) -> bool:
        progress = self._progress
        return self._outcome.is_due(self.state.version, progress.uncommitted_changes, progress.uncommitted)

    def _publish(self) -> None:
        """Publish the committed checkpoint, once every shard has given its part of it."""
        self._awaited = self.state
        self._pieces = {0: self._serving.clone()}
        if self._shards > 1:
            self._owner.cut = self.state.plans_applied
        self._submit_if_whole()

    def _piece(self, shard: int, index: int, data: bytes) -> None:
        if self._awaited is not None and index == self._awaited.plans_applied:
            self._pieces[shard] = from_bytes(data, torch.float32)
            self._submit_if_whole()

    def _submit_if_whole(self) -> None:
        if self._awaited is not None and len(self._pieces) == self._shards:
            whole = torch.cat([self._pieces[shard] for shard in range(self._shards)])
            self._publishing = self._thread.submit(self._outcome.write, self._awaited, self._views(whole))
            self._awaited, self._pieces = None, {}

    def _finish(self, publishing: Future[int]) -> None:
        self._publishing = None
        free = self._outcome.settle(self.state, publishing.result)
        if free is not None and self.commit(free):
            self._publish()
