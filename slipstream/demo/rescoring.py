"""Re-scores served lists with plain PyTorch and the weights of the version each list names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.replica import ScoredItem
from online_trainer.tensors import from_raw
from recommender.loading import Recommender, load_tensors
from recommender.scoring import score_histories
from releases.store import ReleaseStore
from slipstream.demo.oracle import same_list, same_scores

_ROWS = 64


@dataclass(frozen=True)
class ServedList:
    """A model's answer: by which version, from which history (item ids, oldest first), and what was on it."""

    version: int
    history: list[str]
    items: list[ScoredItem]


@dataclass(frozen=True)
class Verdict:
    """Of `compared` lists, how many are, scores included, the top of the version they name (`agreed`), and how many
    the first version would have answered with other items or in another order (`changed`)."""

    compared: int
    agreed: int
    changed: int


class _Scored(NamedTuple):
    """A served list as item indices, what may not be on it, and the oracle's log-probabilities. [num_items]"""

    items: list[int]
    scores: list[float]
    seen: set[int]
    oracle: npt.NDArray[np.float32]


def rescore(
    recommender: Recommender, store: ReleaseStore, model: str, lists: Sequence[ServedList], num_results: int = 10
) -> Verdict:
    """Compare every list; `recommender`'s weights are overwritten. Raises ReleaseMissing, ReleaseCorrupt."""
    agreed = 0
    for version in sorted({served.version for served in lists}):
        mine = [served for served in lists if served.version == version]
        for one in _score(recommender, store, model, version, mine):
            agreed += same_list(one.items, one.oracle, one.seen, num_results) and same_scores(
                one.items, one.scores, one.oracle
            )
    first = min(store.versions(model))
    unchanged = sum(
        same_list(one.items, one.oracle, one.seen, num_results)
        for one in _score(recommender, store, model, first, lists)
    )
    return Verdict(len(lists), agreed, len(lists) - unchanged)


def _score(
    recommender: Recommender, store: ReleaseStore, model: str, version: int, lists: Sequence[ServedList]
) -> Iterator[_Scored]:
    """Each list beside what `version` gives for its history."""
    load_tensors(recommender.model, from_raw(store.read(model, version).tensors))
    index = recommender.vocabulary.index
    for start in range(0, len(lists), _ROWS):
        part = lists[start : start + _ROWS]
        rows = score_histories(recommender, [served.history for served in part]).numpy()
        for served, row in zip(part, rows, strict=True):
            yield _Scored(
                items=[index[item.item_id] for item in served.items],
                scores=[item.score for item in served.items],
                seen={index[item_id] for item_id in served.history if item_id in index},
                oracle=row,
            )
