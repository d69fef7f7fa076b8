"""Waiting out a log, or a release store, that is away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from online_trainer.metrics import TrainerMetrics
from releases.unavailable import StoreUnavailable
from streams.event_log import LogUnavailable

_PAUSE_SECONDS = 0.2
_log = structlog.get_logger(__name__)
T = TypeVar("T")


class Stopped(Exception):
    """The trainer was told to stop while the log or the store was away."""


class Patience:
    """Repeats what the log or the store refuses until it answers, or until the trainer is told to stop."""

    def __init__(self, metrics: TrainerMetrics) -> None:
        self._metrics = metrics
        self.stopping = False

    def stop(self) -> None:
        """Ask for an orderly end; a signal handler may call it."""
        self.stopping = True

    def wait_for(self, operation: Callable[[], T]) -> T:
        """The result of `operation`, called again as long as it raises LogUnavailable. Raises Stopped."""
        last = ""
        while True:
            try:
                result = operation()
            except LogUnavailable as error:
                self._metrics.log_up.set(0)
                if str(error) != last:
                    _log.warning("log_unavailable", error=str(error))
                last = str(error)
                if self.stopping:
                    raise Stopped(f"stopped while the log was away: {error}") from error
                # The log's own time-outs pace this; the pause is for errors that come at once.
                time.sleep(_PAUSE_SECONDS)
            else:
                self._metrics.log_up.set(1)
                return result

    def wait_for_store(self, operation: Callable[[], T]) -> T:
        """The result of `operation`, called again as long as it raises StoreUnavailable. Raises Stopped."""
        watch = self._metrics.watch_store("the trainer waits with its start")
        while True:
            try:
                with watch.call():
                    return operation()
            except StoreUnavailable as error:
                while watch.seconds_left:
                    if self.stopping:
                        raise Stopped(f"stopped while the release store was away: {error}") from error
                    time.sleep(min(_PAUSE_SECONDS, watch.seconds_left))
