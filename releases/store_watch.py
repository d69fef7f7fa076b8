"""How a process waits out a release store that can't be reached."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from releases.unavailable import StoreUnavailable

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_log = structlog.get_logger(__name__)


class StoreWatch:
    """Of one process on its store: paces what it asks again, and logs once when it goes and once when it is back.

    For one thread.

    Args:
        effect: what goes on meanwhile and what does not, for the log.
        show_up: told True or False when that changes.
        count: called for each call that found the store out of reach.
    """

    def __init__(self, effect: str, show_up: Callable[[bool], object], count: Callable[[], object]) -> None:
        self._effect = effect
        self._show_up = show_up
        self._count = count
        self._since: float | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._next_try = 0.0

    @property
    def away(self) -> bool:
        """Whether the last call found the store out of reach."""
        return self._since is not None

    @property
    def seconds_left(self) -> float:
        """Until the store should be asked again; 0 while it answers."""
        return max(0.0, self._next_try - time.monotonic())

    def hurry(self) -> None:
        """Have it asked now: there is no later."""
        self._next_try = 0.0

    def lost(self, error: StoreUnavailable) -> None:
        """A call failed; each pause is twice the one before, up to half a minute."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            self._show_up(False)
            _log.error("store_unavailable", error=str(error), effect=self._effect)
        self._count()
        self._next_try = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def answered(self) -> None:
        """A call came through."""
        if self._since is not None:
            _log.warning("store_back", away_seconds=round(time.monotonic() - self._since, 1))
            self._show_up(True)
        self._since, self._pause, self._next_try = None, _FIRST_PAUSE_SECONDS, 0.0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around a call of the store; passes on what it raises."""
        try:
            yield
        except StoreUnavailable as error:
            self.lost(error)
            raise
        self.answered()
