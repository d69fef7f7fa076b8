"""When a release is due, and what becomes of one: it is out, or is tried again with the next."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog
from torch import Tensor

from online_trainer.append_file import is_disk_full
from online_trainer.checkpoint import CheckpointState
from online_trainer.metrics import TrainerMetrics
from online_trainer.publisher import Publisher
from online_trainer.settings import TrainerSettings
from releases.store import VersionTaken
from releases.unavailable import StoreUnavailable
from streams.event_log import LogUnavailable

_UNTRAINED_COMMIT_SECONDS = 30.0
_log = structlog.get_logger(__name__)


class Publishing:
    """Of one model's writer.

    Attributes:
        published: newest version that is in the store and announced; 0 before the first.
    """

    def __init__(self, settings: TrainerSettings, publisher: Publisher, metrics: TrainerMetrics) -> None:
        self.published = 0
        self._settings = settings
        self._publisher = publisher
        self._metrics = metrics
        self._store = metrics.watch_store("training and commits go on, publishing waits")
        self._begun_at = time.monotonic()

    @property
    def waits(self) -> bool:
        """Whether the store could not be reached, and it is not time yet to ask it again."""
        return self._store.seconds_left > 0

    def hurry(self) -> None:
        """Do not wait with the next try: training ends."""
        self._store.hurry()

    def begin(self) -> None:
        """A release begins: the next one's time counts from now."""
        self._begun_at = time.monotonic()

    def is_due(self, version: int, trained: int, uncommitted: bool) -> bool:
        """Whether it is time to commit, and to publish what is not out yet.

        Args:
            version: of the newest commit.
            trained: events since that commit, and items added.
            uncommitted: whether any batch was applied since.
        """
        settings, since = self._settings, time.monotonic() - self._begun_at
        if version > self.published and self._store.away and not self.waits:
            return True
        if trained or version > self.published:
            by_count = 0 < settings.publish_events <= trained
            return by_count or 0 < settings.publish_seconds <= since
        return uncommitted and since >= _UNTRAINED_COMMIT_SECONDS

    def write(self, state: CheckpointState, weights: Mapping[str, Tensor]) -> int:
        """Publish and announce, or announce again what the store has; tensor bytes written. Raises as `Publisher`."""
        if self._publisher.has_published(state, weights):
            self._publisher.announce(state.version)
            return 0
        return self._publisher.publish(state, weights)

    def settle(self, state: CheckpointState, write: Callable[[], int]) -> int | None:
        """What became of `write`. A number where the version was taken: commit as that, and publish again.

        What store or log refuse is counted and logged. Raises WriterReplaced.
        """
        try:
            with self._store.call():
                return self._attempt(state, write)
        except StoreUnavailable:
            self._metrics.publish_failures.inc()
        except OSError as error:
            self._failed(state, "disk_full" if is_disk_full(error) else "publish_failed", error)
        return None

    def _attempt(self, state: CheckpointState, write: Callable[[], int]) -> int | None:
        """What `settle` says, where the store has answered."""
        try:
            size = write()
        except VersionTaken as taken:
            # Another trainer's, or this one's before its state folder was restored: step over the number.
            _log.warning("version_taken", reason=str(taken))
            return self._publisher.newest() + 1
        except LogUnavailable as error:
            self._failed(state, "announcement_failed", error)
        else:
            self._is_out(state, size)
        return None

    def _is_out(self, state: CheckpointState, size: int) -> None:
        metrics = self._metrics
        self.published = state.version
        if size:
            metrics.release_bytes.set(size)
        metrics.release_density.set(self._publisher.density)
        metrics.version.set(state.version)
        metrics.release_seconds.observe(time.monotonic() - self._begun_at)
        metrics.disk_full.set(0)
        _log.info("released", version=state.version, events_trained=state.events_trained)

    def _failed(self, state: CheckpointState, event: str, error: Exception) -> None:
        self._metrics.publish_failures.inc()
        self._metrics.disk_full.set(event == "disk_full")
        _log.error(event, version=state.version, error=str(error), effect="tried again with the next release")
