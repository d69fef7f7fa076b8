"""Which items follow which within a user's last few: an item-to-item graph that learns as events come."""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catalogue.heuristic import Heuristic, check_positive


class CooccurrenceGraph(Heuristic):
    """Counts pairs of items within a user's last `window` items, and scores a history by its last items' pairs.

    An item j scores sum over the history's last `last` items i of `decay`^age(i) · pairs(i, j) / events(i),
    divided by events(j)^`damping`, plus `backfill` · share of all events that are j's. (With damping 0 it
    estimates P(j soon after i); damping 0.5 makes it the cosine.)
    """

    def __init__(
        self,
        num_items: int,
        *,
        window: int = 10,
        last: int = 10,
        decay: float = 0.8,
        damping: float = 0.0,
        symmetric: bool = False,
        backfill: float = 1e-6,
    ) -> None:
        """An empty graph.

        Args:
            num_items: items are 0 to `num_items` - 1.
            window: how many earlier items of its user an event makes a pair with.
            last: how many items of a history speak.
            decay: what an item says against the one after it, 0 to 1.
            damping: 0 favours popular items as they are, 1 takes their popularity out.
            symmetric: count a pair in both directions, not only from the earlier item to the later.
            backfill: orders the items that no pair reaches.
        """
        check_positive(num_items=num_items, window=window, last=last)
        self._last, self._decay, self._damping = last, decay, damping
        self._symmetric, self._backfill = symmetric, backfill
        self._events = np.zeros(num_items)
        # One entry a pair event: appending is cheap, and counting them takes one bincount at scoring time.
        self._pairs = [array("i") for _ in range(num_items)]
        self._recent: defaultdict[int, deque[int]] = defaultdict(lambda: deque(maxlen=window))

    def observe(self, user: int, item: int, timestamp: float) -> None:
        """Pair `item` with the other items among `user`'s last `window`."""
        recent = self._recent[user]
        for earlier in recent:
            if earlier != item:
                self._pairs[earlier].append(item)
                if self._symmetric:
                    self._pairs[item].append(earlier)
        recent.append(item)
        self._events[item] += 1

    def score(self, user: int, history: Sequence[int] | NDArray[np.int32], now: float) -> NDArray[np.float64]:
        """`[I]` float64: see the class."""
        scores = self._votes([int(item) for item in history[-self._last :]])
        if self._damping:
            scores /= np.maximum(self._events, 1) ** self._damping
        scores += self._backfill * self._events / max(self._events.sum(), 1)
        return scores

    def _votes(self, speakers: list[int]) -> NDArray[np.float64]:
        """What the last items say of all items."""
        rows, weights = [], []
        for age, item in enumerate(reversed(speakers)):
            if self._pairs[item]:
                rows.append(np.frombuffer(self._pairs[item], np.intc))
                weights.append(self._decay**age / self._events[item])
        if not rows:
            return np.zeros(len(self._events))
        repeated = np.repeat(weights, [len(row) for row in rows])
        return np.asarray(np.bincount(np.concatenate(rows), repeated, minlength=len(self._events)), np.float64)
