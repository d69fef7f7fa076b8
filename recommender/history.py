"""A user's history that keeps the item indices of its events, so that a batch does not look them up again."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple


class Interaction(NamedTuple):
    """What a user's history keeps of an event."""

    item_id: str
    timestamp: float


class History(deque[Interaction]):
    """A user's last events, oldest first; changed by `append` alone.

    Args:
        length: how many are kept.
    """

    def __init__(self, events: Iterable[Interaction] = (), length: int | None = None) -> None:
        super().__init__(events, length)
        self._index: dict[str, int] | None = None
        self._known: list[int] = []
        self._num_items = 0

    def append(self, event: Interaction) -> None:
        """Add the newest event; the oldest of a full history goes."""
        if self._index is not None and len(self._index) != self._num_items:
            self._index = None
        if self._index is not None:
            if len(self) == self.maxlen and self[0].item_id in self._index:
                del self._known[0]
            if (item := self._index.get(event.item_id)) is not None:
                self._known.append(item)
        super().append(event)

    def known(self, index: dict[str, int]) -> list[int]:
        """Item indices of the events whose item is in `index`; a copy."""
        if self._index is not index or self._num_items != len(index):
            self._index, self._num_items = index, len(index)
            self._known = [index[seen.item_id] for seen in self if seen.item_id in index]
        return self._known.copy()
