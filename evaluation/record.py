"""What an evaluation leaves behind: where each event's item stood. Every metric and table is made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recommender.ranking import TiedRanks, ndcg, recall, reciprocal_rank

K = 10
"""Length of the lists that count."""


@dataclass(frozen=True, eq=False)
class Record:
    """One scorer on one stretch of a timeline, an entry an event, in the timeline's order.

    Attributes:
        row: `[E]` int64, the event's row in the data set: the same event under every seed.
        user: `[E]` int32. position: `[E]` int64, place in the timeline.
        above, tied: `[E]` int64, its rank (`TiedRanks`).
        covered: `[I]` bool, items that stood in any list of 10.
    """

    row: NDArray[np.int64]
    user: NDArray[np.int32]
    position: NDArray[np.int64]
    above: NDArray[np.int64]
    tied: NDArray[np.int64]
    covered: NDArray[np.bool_]

    def __len__(self) -> int:
        """The number of events."""
        return len(self.row)

    @property
    def ranks(self) -> TiedRanks:
        """The events' ranks."""
        return TiedRanks(self.above, self.tied)

    @property
    def ndcg(self) -> NDArray[np.float64]:
        """`[E]` NDCG@10."""
        return ndcg(self.ranks, K)

    @property
    def recall(self) -> NDArray[np.float64]:
        """`[E]` Recall@10."""
        return recall(self.ranks, K)

    @property
    def reciprocal_rank(self) -> NDArray[np.float64]:
        """`[E]` 1 / rank."""
        return reciprocal_rank(self.ranks)

    @property
    def coverage(self) -> float:
        """Share of the catalogue that stood in any list."""
        return float(self.covered.mean())

    def where(self, keep: NDArray[np.bool_]) -> Record:
        """The events of `keep`; `covered` stays that of all lists."""
        return Record(
            self.row[keep], self.user[keep], self.position[keep], self.above[keep], self.tied[keep], self.covered
        )

    def save(self, path: Path) -> None:
        """Write an `.npz`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **{name: getattr(self, name) for name in self.__dataclass_fields__})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
