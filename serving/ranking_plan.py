"""What a request means for one model: its prompt, and which items may come back. Both engines start here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contracts.replica import RankRequest, ScoredItem
from recommender.prompt import Prompt
from recommender.vocabulary import ItemVocabulary

ItemIndices = NDArray[np.int32]


@dataclass(frozen=True)
class RankingPlan:
    """One request in the model's terms.

    Attributes:
        tokens: the prompt.
        candidates: `[C]` item indices that may come back, distinct, ascending; None for the whole catalogue.
        excluded: `[E]` item indices that must not, distinct, ascending, within `candidates` where those are given.
        num_results: how many items will come back: as many as asked for, or as there are.
        num_items: of the whole catalogue, as the live release knows it.
    """

    tokens: list[int]
    candidates: ItemIndices | None
    excluded: ItemIndices
    num_results: int
    num_items: int


def plan_ranking(request: RankRequest, prompt: Prompt) -> RankingPlan:
    """Ids the model does not know are passed over, in the history and in both lists."""
    vocabulary = prompt.vocabulary
    excluded = _indices(vocabulary, request.exclude)
    candidates = None if request.candidates is None else _indices(vocabulary, request.candidates)
    if candidates is not None:
        excluded = np.intersect1d(excluded, candidates, assume_unique=True)
    available = (vocabulary.num_items if candidates is None else len(candidates)) - len(excluded)
    return RankingPlan(
        tokens=prompt.tokens(request.history),
        candidates=candidates,
        excluded=excluded,
        num_results=min(request.num_results, available),
        num_items=vocabulary.num_items,
    )


def scored_items(vocabulary: ItemVocabulary, indices: list[int], scores: list[float]) -> list[ScoredItem]:
    """Indices and their scores as an answer: best first, ties by the model's item order."""
    order = sorted(zip((-score for score in scores), indices, strict=True))
    return [ScoredItem(vocabulary.item_ids[index], -negative) for negative, index in order]


def _indices(vocabulary: ItemVocabulary, item_ids: list[str]) -> ItemIndices:
    return np.unique(np.array(vocabulary.known(item_ids), dtype=np.int32))
