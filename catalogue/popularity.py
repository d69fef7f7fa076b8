"""How often items were taken: of all time, in the last days, or with a weight that halves every so many days.

Event time counts, never the wall clock: "now" is the newest timestamp seen, or a later one that the caller
gives. Late events are counted as if they had come in time.
"""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from catalogue.heuristic import SECONDS_PER_DAY, Heuristic, check_positive
from contracts.replica import ScoredItem

REBASE_HALF_LIVES = 64.0
"""Decayed weights are kept relative to a moment; past 64 half-lives it moves on, long before float64 overflows."""


class Popularity(Heuristic):
    """Counts items as their events come. Make one by `all_time`, `last_days` or `decayed`. Not thread-safe.

    Items have the order of `item_ids`; an id seen for the first time goes to the end.
    """

    def __init__(self, item_ids: Iterable[str] = ()) -> None:
        self.item_ids: list[str] = list(dict.fromkeys(item_ids))
        self._index = {item_id: index for index, item_id in enumerate(self.item_ids)}
        self._weight = np.zeros(max(16, len(self.item_ids)))
        self._clock = -np.inf

    @staticmethod
    def all_time(item_ids: Iterable[str] = ()) -> Popularity:
        """Every event counts 1 for ever."""
        return _AllTime(item_ids)

    @staticmethod
    def last_days(days: float, item_ids: Iterable[str] = ()) -> Popularity:
        """An event counts 1 while it is younger than `days` days."""
        return _LastDays(days, item_ids)

    @staticmethod
    def decayed(half_life_days: float, item_ids: Iterable[str] = ()) -> Popularity:
        """An event counts 2^(-age / `half_life_days`)."""
        return _Decayed(half_life_days, item_ids)

    def __len__(self) -> int:
        """The number of items."""
        return len(self.item_ids)

    def add_item(self, item_id: str) -> int:
        """Know `item_id`, without an event if it is new; its index."""
        index = self._index.setdefault(item_id, len(self.item_ids))
        if index == len(self.item_ids):
            self.item_ids.append(item_id)
            if index == len(self._weight):
                self._weight = np.concatenate([self._weight, np.zeros(len(self._weight))])
        return index

    def add(self, item_id: str, timestamp: float) -> None:
        """Count an event of `item_id` at `timestamp` (unix seconds)."""
        self._count(self.add_item(item_id), timestamp)

    def observe(self, user: int, item: int, timestamp: float) -> None:
        """Count an event of the item at index `item`, whoever it was."""
        if not 0 <= item < len(self.item_ids):
            raise IndexError(f"item {item} is not one of the {len(self.item_ids)} items; add_item makes room for more")
        self._count(item, timestamp)

    def scores(self, now: float | None = None) -> NDArray[np.float64]:
        """`[I]` float64: each item's count at `now`, or at the newest event if that is later (a copy)."""
        self._clock = max(self._clock, -np.inf if now is None else now)
        return self._at_clock()

    def score(self, user: int, history: Sequence[int] | NDArray[np.int32], now: float) -> NDArray[np.float64]:
        """`scores(now)`, the same for everyone."""
        return self.scores(now)

    def top(self, k: int, exclude: Collection[str] = (), now: float | None = None) -> list[ScoredItem]:
        """The `k` most taken items without those of `exclude`; ties, and items never taken, in the items' order.

        Fewer than `k` when there are fewer items.
        """
        check_positive(k=k)
        scores = self.scores(now)
        excluded = [self._index[item_id] for item_id in exclude if item_id in self._index]
        scores[excluded] = -np.inf
        k = min(k, len(scores) - len(set(excluded)))
        if k <= 0:
            return []
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        candidates = np.flatnonzero(scores >= threshold)
        best = candidates[np.argsort(-scores[candidates], kind="stable")[:k]]
        return [ScoredItem(self.item_ids[index], float(scores[index])) for index in best.tolist()]

    @abstractmethod
    def _count(self, index: int, timestamp: float) -> None:
        """Count one event."""

    @abstractmethod
    def _at_clock(self) -> NDArray[np.float64]:
        """The counts at `_clock`, as a fresh array."""


class _AllTime(Popularity):
    def _count(self, index: int, timestamp: float) -> None:
        self._weight[index] += 1

    def _at_clock(self) -> NDArray[np.float64]:
        return self._weight[: len(self)].copy()


class _LastDays(Popularity):
    def __init__(self, days: float, item_ids: Iterable[str] = ()) -> None:
        super().__init__(item_ids)
        check_positive(days=days)
        self._window_seconds = days * SECONDS_PER_DAY
        self._counted: list[tuple[float, int]] = []  # a heap, oldest first

    def _count(self, index: int, timestamp: float) -> None:
        self._clock = max(self._clock, timestamp)
        self._weight[index] += 1
        heapq.heappush(self._counted, (timestamp, index))
        self._expire()

    def _at_clock(self) -> NDArray[np.float64]:
        self._expire()
        return self._weight[: len(self)].copy()

    def _expire(self) -> None:
        oldest = self._clock - self._window_seconds
        while self._counted and self._counted[0][0] <= oldest:
            self._weight[heapq.heappop(self._counted)[1]] -= 1


class _Decayed(Popularity):
    def __init__(self, half_life_days: float, item_ids: Iterable[str] = ()) -> None:
        super().__init__(item_ids)
        check_positive(half_life_days=half_life_days)
        self._half_life_seconds = half_life_days * SECONDS_PER_DAY
        self._reference = -np.inf  # the moment at which an event weighs 1 in _weight

    def _count(self, index: int, timestamp: float) -> None:
        self._clock = max(self._clock, timestamp)
        if timestamp - self._reference > REBASE_HALF_LIVES * self._half_life_seconds:
            self._weight *= self._factor(timestamp)
            self._reference = timestamp
        self._weight[index] += 1 / self._factor(timestamp)

    def _at_clock(self) -> NDArray[np.float64]:
        return self._weight[: len(self)] * self._factor(self._clock)

    def _factor(self, moment: float) -> float:
        """What an event at the reference has decayed to by `moment`; above 1 before it."""
        if self._reference == -np.inf:
            return 0.0
        return float(np.exp2((self._reference - moment) / self._half_life_seconds))
