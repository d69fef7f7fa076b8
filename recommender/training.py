"""The online batch's scores and loss: full softmax over the items, each event from the state before its block."""

from __future__ import annotations

import torch
from torch import Tensor

from recommender.examples import OnlineBatch
from recommender.loading import Recommender
from recommender.scoring import hidden_states, item_log_probabilities


def batch_states(recommender: Recommender, batch: OnlineBatch) -> Tensor:
    """The state `[B, D]` that each of the batch's rows is asked from."""
    states = hidden_states(recommender, batch.tokens)
    return states[torch.arange(len(batch.last), device=batch.last.device), batch.last]


def online_loss(recommender: Recommender, batch: OnlineBatch, mask_seen: bool = False) -> Tensor:
    """Mean negative log-probability of the batch's events; one forward pass.

    Args:
        mask_seen: as `windows.window_batch` takes it.

    Raises:
        ValueError: a batch without events.
    """
    if not batch.num_events:
        raise ValueError("the batch has no event with a known item; skip it")
    seen = _seen(recommender, batch) if mask_seen else None
    scores = item_log_probabilities(recommender, batch_states(recommender, batch), seen)
    return -scores[batch.event_row, batch.target].mean()


def _seen(recommender: Recommender, batch: OnlineBatch) -> Tensor:
    """`[B, num_items]` bool: what each row's user had before its block, but for what was taken again."""
    mask = torch.zeros((len(batch.blocks), recommender.vocabulary.num_items), dtype=torch.bool)
    for row, block in zip(mask, batch.blocks, strict=True):
        row[list(block.before)] = True
        row[block.targets] = False
    return mask.to(batch.target.device)
