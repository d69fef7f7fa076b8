"""Re-scores served lists with plain PyTorch and the weights of the version each list names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.replica import ScoredItem
from online_trainer.tensors import from_raw
from recommender.loading import Recommender, load_tensors
from recommender.scoring import score_histories
from releases.store import ReleaseStore
from slipstream.demo.oracle import agrees

_ROWS = 256


@dataclass(frozen=True)
class ServedList:
    """A model's answer: by which version, from which history (item ids, oldest first), and what was on it."""

    version: int
    history: list[str]
    items: list[ScoredItem]


@dataclass(frozen=True)
class Verdict:
    """Of `compared` lists, how many are the top 10 of the version they name, and of the first version not."""

    compared: int
    agreed: int
    changed: int


def rescore(
    recommender: Recommender, store: ReleaseStore, model: str, lists: Sequence[ServedList], num_results: int = 10
) -> Verdict:
    """Compare every list; `recommender`'s weights are overwritten. Raises ReleaseMissing, ReleaseCorrupt."""
    versions = sorted({served.version for served in lists})
    first = min(store.versions(model))
    agreed = 0
    for version in versions:
        mine = [served for served in lists if served.version == version]
        agreed += sum(_verdicts(recommender, store, model, version, mine, num_results))
    changed = len(lists) - sum(_verdicts(recommender, store, model, first, lists, num_results))
    return Verdict(len(lists), agreed, changed)


def _verdicts(
    recommender: Recommender,
    store: ReleaseStore,
    model: str,
    version: int,
    lists: Sequence[ServedList],
    num_results: int,
) -> Iterator[bool]:
    """Whether each list is what `version` would have answered."""
    bundle = store.read(model, version)
    load_tensors(recommender.model, from_raw(bundle.tensors))
    index = recommender.vocabulary.index
    for start in range(0, len(lists), _ROWS):
        part = lists[start : start + _ROWS]
        scores = score_histories(recommender, [served.history for served in part]).numpy()
        for served, row in zip(part, scores, strict=True):
            items = [index[item.item_id] for item in served.items]
            seen = {index[item_id] for item_id in served.history if item_id in index}
            yield agrees(items, [item.score for item in served.items], row.astype(np.float32), seen, num_results)
