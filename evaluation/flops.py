"""Floating-point operations of training, from shapes: 2 a multiply-add, backward twice the forward.

Counts what `torch.utils.flop_counter` counts (matrix products and attention), padding included, so that online steps
and retraining are weighed alike; a test holds the two together. A counting of every operation by torch itself would
take longer than the operations of a small model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from recommender.loading import Recommender

FORWARD_AND_BACKWARD = 3
Scored = Literal["last", "all"]


class Flops:
    """Adds up the training steps of recommenders of one shape.

    Attributes:
        total: so far.
    """

    def __init__(self, recommender: Recommender) -> None:
        self.total = 0
        config = recommender.model.config
        heads, hidden = config.num_attention_heads, config.hidden_size
        width = getattr(config, "head_dim", None) or hidden // heads
        kv_heads = getattr(config, "num_key_value_heads", heads)
        # q and o; k and v; gate, up and down.
        products = 2 * hidden * heads * width + 2 * hidden * kv_heads * width + 3 * hidden * config.intermediate_size
        self._per_token = 2 * config.num_hidden_layers * products
        self._per_pair = 4 * config.num_hidden_layers * heads * width
        self._hidden = hidden

    def add_step(self, rows: int, tokens: int, states: int, num_items: int) -> None:
        """A training step on a rectangle of `rows` × `tokens`, with the item softmax at `states` positions."""
        body = rows * tokens * self._per_token + rows * tokens * tokens * self._per_pair
        self.total += FORWARD_AND_BACKWARD * (body + 2 * states * self._hidden * num_items)

    @contextmanager
    def counting(self, recommender: Recommender, scored: Scored) -> Iterator[None]:
        """Add every forward pass that has gradients; its item softmax reads each row's `last` state, or `all`."""
        pad, num_items = recommender.vocabulary.pad_token, recommender.vocabulary.num_items

        def count(module: nn.Module, args: Any, kwargs: Any) -> None:
            if torch.is_grad_enabled():
                tokens = kwargs["input_ids"]
                rows, length = tokens.shape
                states = rows if scored == "last" else int((tokens != pad).sum())
                self.add_step(rows, length, states, num_items)

        hook = recommender.model.base_model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
