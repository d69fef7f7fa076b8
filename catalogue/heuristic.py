"""The seam of everything that ranks a catalogue without a model: the baselines a model has to beat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SECONDS_PER_DAY = 86_400.0


class Heuristic(ABC):
    """Learns events one at a time and scores all items; users and items are indexes into a data set's lists.

    Events come in time order. An evaluation asks for `score` before it shows the events it asks about, and
    masks seen items itself. Not thread-safe.
    """

    @abstractmethod
    def observe(self, user: int, item: int, timestamp: float) -> None:
        """Learn that `user` took `item` at `timestamp` (unix seconds)."""

    @abstractmethod
    def score(self, user: int, history: Sequence[int] | NDArray[np.int32], now: float) -> NDArray[np.float64]:
        """`[I]` float64, higher is better, for `user` with `history` (oldest first) at `now` (unix seconds)."""


def check_positive(**values: float) -> None:
    """Raise a ValueError that names the first of `values` that is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, not {value}")
