"""A bound on bytes in flight: taken when a record is accepted, given back when its fate is known."""

from __future__ import annotations

import threading


class ByteBudget:
    """Counts bytes against a limit. Thread-safe; never blocks."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes taken and not yet given back."""
        return self._used

    def take(self, size: int) -> bool:
        """Take `size` bytes, or nothing and False when they would exceed the limit."""
        with self._lock:
            if self._used + size > self.limit:
                return False
            self._used += size
            return True

    def give_back(self, size: int) -> None:
        """Return bytes that were taken."""
        with self._lock:
            self._used -= size
