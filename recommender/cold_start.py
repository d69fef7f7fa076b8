"""Items born after the model: a reserved token, and a start from what is known of the item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from contracts.item import Item
from recommender.base_model import start_from_titles
from recommender.loading import Recommender
from recommender.prompt import Prompt


def add_items(
    recommender: Recommender, new: Sequence[Item], known: Mapping[str, Item], tokenizer: Any = None
) -> Recommender:
    """Give `new` items reserved tokens. Old tokens, tensor shapes and scores' order stay; the weights change in place.

    With a base model's `tokenizer` a row starts as the mean over its title's tokens. Without, it starts as the mean of
    the known items' rows weighted by likeness: shared categories and title words over all of both (Jaccard 1912). An
    item like no other starts from the plain mean.

    Args:
        known: the catalogue by item id; what it lacks of the model's items lends nothing.

    Raises:
        ValueError: more new items than reserved slots, or one that the model knows.
    """
    vocabulary = recommender.vocabulary.with_items([item.item_id for item in new])
    grown = Recommender(recommender.model, vocabulary, Prompt(recommender.prompt.template, vocabulary))
    if tokenizer is not None:
        start_from_titles(grown, new, tokenizer, words=vocabulary.first_item_token)
        return grown
    old = recommender.vocabulary
    features = [_features(known[item_id]) if item_id in known else frozenset() for item_id in old.item_ids]
    tensors = [recommender.model.get_input_embeddings().weight.detach()]
    if not recommender.tied:
        tensors.append(recommender.head.weight.detach())
    for item in new:
        weights = _likeness(_features(item), features)
        for rows in tensors:
            rows[vocabulary.token(item.item_id)] = (
                weights.to(rows.device) @ rows[old.item_tokens.start : old.item_tokens.stop]
            )
    return grown


@lru_cache(maxsize=1 << 20)
def _features(item: Item) -> frozenset[str]:
    return frozenset({f"category:{category}" for category in item.categories}) | set(item.title.lower().split())


def _likeness(own: frozenset[str], others: Sequence[frozenset[str]]) -> torch.Tensor:
    """Weights `[num_items]` that sum to 1: Jaccard likeness, or all equal where nothing is shared."""
    shared = [len(own & other) / len(own | other) if own & other else 0.0 for other in others]
    weights = torch.tensor(shared) if any(shared) else torch.ones(len(others))
    return weights / weights.sum()
