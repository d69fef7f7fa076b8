"""A user's history that keeps the item indices of its events, so that a batch does not look them up again."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable

import msgspec

_append = deque.append


class Interaction(msgspec.Struct, frozen=True, gc=False):
    """What a user's history keeps of an event; millions of them, which the garbage collector need not walk."""

    item_id: str
    timestamp: float


class History(deque[Interaction]):
    """A user's last events, oldest first; changed by `append` alone.

    Args:
        length: how many are kept.
    """

    __slots__ = ("_index", "_known", "_num_items", "newest")

    def __init__(self, events: Iterable[Interaction] = (), length: int | None = None) -> None:
        super().__init__(events, length)
        self.newest: float | None = self[-1].timestamp if self else None
        """Timestamp of the last event; here, as a batch asks each of its users for it."""
        self._index: dict[str, int] | None = None
        self._known = array("i")
        self._num_items = 0

    def append(self, event: Interaction) -> None:
        """Add the newest event; the oldest of a full history goes."""
        index = self._index
        if index is not None:
            if len(index) != self._num_items:
                self._index = None
            else:
                if len(self) == self.maxlen and self[0].item_id in index:
                    del self._known[0]
                if (item := index.get(event.item_id)) is not None:
                    self._known.append(item)
        self.newest = event.timestamp
        _append(self, event)

    def known(self, index: dict[str, int]) -> array[int]:
        """Item indices, 32 bits each, of the events whose item is in `index`; a copy."""
        if self._index is not index or self._num_items != len(index):
            self._index, self._num_items = index, len(index)
            self._known = array("i", [index[seen.item_id] for seen in self if seen.item_id in index])
        return self._known[:]
