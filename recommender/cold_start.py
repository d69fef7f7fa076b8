"""Items born after the model: a reserved token, and a start from what is known of the item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contracts.item import Item
from recommender.base_model import title_rows
from recommender.loading import Recommender, item_tables
from recommender.prompt import Prompt

Starts = dict[str, Tensor]
"""By checkpoint name of what has a row for each token: the new items' rows, `[n, ...]`."""


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
    return place_items(recommender, [item.item_id for item in new], start_rows(recommender, new, known, tokenizer))


def start_rows(
    recommender: Recommender, new: Sequence[Item], known: Mapping[str, Item], tokenizer: Any = None
) -> Starts:
    """The rows that `add_items` would give to `new` items; changes nothing."""
    tables = item_tables(recommender)
    vocabulary = recommender.vocabulary
    if tokenizer is not None:
        return {name: title_rows(rows, new, tokenizer, vocabulary.first_item_token) for name, rows in tables.items()}
    features = [_features(known[item_id]) if item_id in known else frozenset() for item_id in vocabulary.item_ids]
    likeness = [_likeness(_features(item), features) for item in new]
    old = slice(vocabulary.item_tokens.start, vocabulary.item_tokens.stop)
    return {
        name: torch.stack([weights.to(rows.device) @ rows[old] for weights in likeness])
        for name, rows in tables.items()
    }


def place_items(recommender: Recommender, item_ids: Sequence[str], starts: Mapping[str, Tensor]) -> Recommender:
    """The recommender with `item_ids` in reserved slots, started from `starts`; its weights change in place.

    Raises:
        ValueError: more items than reserved slots, one that the model knows, or rows that are not this model's.
    """
    grown = with_items(recommender, item_ids)
    first = recommender.vocabulary.item_tokens.stop
    tables = item_tables(recommender)
    for name, rows in tables.items():
        shape = (len(item_ids), *rows.shape[1:])
        if name not in starts or starts[name].shape != shape or len(starts) != len(tables):
            raise ValueError(
                f"rows of {sorted(starts)} where {name} {shape} is this model's; start with the same model"
            )
    for name, rows in tables.items():
        rows[first : first + len(item_ids)] = starts[name]
    return grown


def with_items(recommender: Recommender, item_ids: Sequence[str]) -> Recommender:
    """The recommender with `item_ids` in the next reserved slots, whose rows its weights have already."""
    vocabulary = recommender.vocabulary.with_items(item_ids)
    return Recommender(recommender.model, vocabulary, Prompt(recommender.prompt.template, vocabulary))


def title_tokenizer(model_dir: Path) -> Any:
    """A base model's, where the folder has one, for `add_items`; None for an item-only model."""
    if not (model_dir / "tokenizer_config.json").is_file():
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)


@lru_cache(maxsize=1 << 20)
def _features(item: Item) -> frozenset[str]:
    return frozenset({f"category:{category}" for category in item.categories}) | set(item.title.lower().split())


def _likeness(own: frozenset[str], others: Sequence[frozenset[str]]) -> Tensor:
    """Weights `[num_items]` that sum to 1: Jaccard likeness, or all equal where nothing is shared."""
    shared = [len(own & other) / len(own | other) if own & other else 0.0 for other in others]
    weights = torch.tensor(shared) if any(shared) else torch.ones(len(others))
    return weights / weights.sum()
