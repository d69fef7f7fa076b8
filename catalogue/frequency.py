"""What a user took before, and what everybody takes now: the baseline to beat where people buy again.

The idea is that of "top personal frequency" with popularity as its filler: H. Hu et al., "Modeling Personalized
Item Frequency Information for Next-basket Recommendation", SIGIR 2020; M. Li et al., "A Next Basket
Recommendation Reality Check", ACM TOIS 41(4), 2023.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catalogue.heuristic import SECONDS_PER_DAY, Heuristic, check_positive
from catalogue.popularity import Popularity


class PersonalFrequency(Heuristic):
    """Scores an item by its share of the user's own events plus `popularity_weight` times its share of `popular`.

    With `half_life_days` a user's own event counts 2^(-age / half-life), else 1. `popular` learns through this
    object: show it each event once, here.
    """

    def __init__(
        self, popular: Popularity, *, popularity_weight: float = 0.1, half_life_days: float | None = None
    ) -> None:
        """Nothing counted yet; `popular` knows the items."""
        if half_life_days is not None:
            check_positive(half_life_days=half_life_days)
        self._popular, self._popularity_weight = popular, popularity_weight
        self._half_life_seconds = np.inf if half_life_days is None else half_life_days * SECONDS_PER_DAY
        self._items: defaultdict[int, array[int]] = defaultdict(lambda: array("i"))
        self._times: defaultdict[int, array[float]] = defaultdict(lambda: array("d"))

    def observe(self, user: int, item: int, timestamp: float) -> None:
        """Count the event for `user` and for everybody."""
        self._popular.observe(user, item, timestamp)
        self._items[user].append(item)
        self._times[user].append(timestamp)

    def score(self, user: int, history: Sequence[int] | NDArray[np.int32], now: float) -> NDArray[np.float64]:
        """`[I]` float64: see the class; `history` is not read, since the user's whole past is known."""
        scores = self._popularity_weight * _shares(self._popular.scores(now))
        return scores + _shares(self._own(user, now)) if self._items.get(user) else scores

    def _own(self, user: int, now: float) -> NDArray[np.float64]:
        ages = now - np.frombuffer(self._times[user], np.float64)
        # Relative to the newest event, so that a user away for a thousand half-lives still has an order.
        weights = np.exp2((ages.min() - ages) / self._half_life_seconds)
        items = np.frombuffer(self._items[user], np.intc)
        return np.asarray(np.bincount(items, weights, minlength=len(self._popular)), np.float64)


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """`counts` as parts of 1; all zero stays all zero."""
    return counts / (counts.sum() or 1.0)
