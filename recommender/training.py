"""The online batch's scores and loss: full softmax over the items, each event from the state before its block."""

from __future__ import annotations

import torch
from torch import Tensor

from recommender.examples import OnlineBatch
from recommender.loading import Recommender
from recommender.scoring import hidden_states, item_log_probabilities


def batch_log_probabilities(recommender: Recommender, batch: OnlineBatch) -> Tensor:
    """The prequential scores, `[B, num_items]`, without gradients: what serving would have answered before each block.

    Event e was given `[batch.event_row[e], batch.target[e]]`.
    """
    with torch.inference_mode():
        return _log_probabilities(recommender, batch)


def online_loss(recommender: Recommender, batch: OnlineBatch) -> Tensor:
    """Mean negative log-probability of the batch's events; one forward pass.

    Raises:
        ValueError: a batch without events.
    """
    if not batch.num_events:
        raise ValueError("the batch has no event with a known item; skip it")
    return -_log_probabilities(recommender, batch)[batch.event_row, batch.target].mean()


def _log_probabilities(recommender: Recommender, batch: OnlineBatch) -> Tensor:
    states = hidden_states(recommender, batch.tokens)
    rows = torch.arange(len(batch.last), device=batch.last.device)
    return item_log_probabilities(recommender, states[rows, batch.last])
