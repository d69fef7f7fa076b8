"""The loss and the optimizer that pre-training and the online trainer share."""

from __future__ import annotations

import torch
from torch import Tensor

from recommender.examples import OnlineBatch
from recommender.loading import Recommender
from recommender.scoring import hidden_states, item_log_probabilities


def online_loss(recommender: Recommender, batch: OnlineBatch) -> tuple[Tensor, Tensor]:
    """One forward pass that both scores and trains the batch's events.

    Returns:
        loss: mean negative log-probability of the events under a full softmax over the items; backward it, step.
        log_probabilities: `[B, num_items]` detached, by the weights before the step: the prequential scores. Event e
            was given `log_probabilities[batch.event_row[e], batch.target[e]]`.

    Raises:
        ValueError: a batch without events.
    """
    if not batch.num_events:
        raise ValueError("the batch has no event with a known item; skip it")
    states = hidden_states(recommender, batch.tokens)
    rows = torch.arange(len(batch.last), device=batch.last.device)
    log_probabilities = item_log_probabilities(recommender, states[rows, batch.last])
    loss = -log_probabilities[batch.event_row, batch.target].mean()
    return loss, log_probabilities.detach()
