"""SASRec, the baseline: self-attention over a user's items with learned positions.

W.-C. Kang and J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. Two things are added that can only
help it: a start token, so that a user without history gets a list, and losses better than the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from catalogue.protocol import Block
from evaluation.scorer import Scorer

Loss = Literal["bce", "gbce", "sampled", "full"]


@dataclass(frozen=True)
class SasrecSettings:
    """A SASRec and how it is trained.

    Attributes:
        loss: `bce` (the paper's: one uniform negative), `gbce`, `sampled` softmax with logQ correction, `full` softmax.
        negatives: of `gbce` (each target its own) and `sampled` (shared by a batch). gbce_t: its calibration.
        hidden, layers, heads, window: sizes. align: count positions from the row's `start` or, as the paper's left
            padding does, from its `end`.
        dropout: on embeddings, attention weights and both sublayers.
        from_block_start: see `evaluation.sequences.Sequences`.
        mask_seen: of `full` and `sampled`: what a user has had before the question does not compete, as when it is
            asked. The other two never draw an item that the row holds.
        learning_rate, weight_decay, batch_rows: of AdamW; the rate rises over the first 100 steps.
    """

    loss: Loss = "full"
    negatives: int = 256
    gbce_t: float = 0.75
    hidden: int = 64
    layers: int = 2
    heads: int = 1
    window: int = 50
    align: Literal["start", "end"] = "start"
    dropout: float = 0.2
    from_block_start: bool = False
    mask_seen: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_rows: int = 128


class Sasrec(nn.Module):
    """States `[B, T, D]` for items `[B, T]`; scores are dot products with the tied item embedding."""

    def __init__(self, num_items: int, settings: SasrecSettings) -> None:
        super().__init__()
        self.settings, self.num_items = settings, num_items
        size = settings.hidden
        self.items = nn.Embedding(num_items + 2, size, padding_idx=num_items + 1)
        self.positions = nn.Embedding(settings.window + 1, size)
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=size**-0.5)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(size, eps=1e-8)
        self.drop = nn.Dropout(settings.dropout)

    @property
    def rows(self) -> Tensor:
        """The items' output embedding `[I, D]`."""
        return self.items.weight[: self.num_items]

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Causal; padding stands on the right and is never read."""
        place = torch.arange(items.shape[1], device=items.device)[None, :]
        if self.settings.align == "end":
            place = (place + self.settings.window + 1 - lengths[:, None]).clamp(max=self.settings.window)
        hidden = self.drop(self.items(items) * self.settings.hidden**0.5 + self.positions(place))
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)


class _Block(nn.Module):
    """Attention whose queries alone are normalised, then a pointwise network, each with dropout and a residual."""

    def __init__(self, settings: SasrecSettings) -> None:
        super().__init__()
        size = settings.hidden
        self.heads, self.dropout = settings.heads, settings.dropout
        self.query_norm, self.point_norm = nn.LayerNorm(size, eps=1e-8), nn.LayerNorm(size, eps=1e-8)
        self.query, self.key_value, self.out = nn.Linear(size, size), nn.Linear(size, 2 * size), nn.Linear(size, size)
        self.point = nn.Sequential(
            nn.Linear(size, size), nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(size, size)
        )
        self.drop = nn.Dropout(settings.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.query_norm(hidden)
        parts = (self.query(normed), *self.key_value(hidden).chunk(2, dim=-1))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        hidden = normed + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
        normed = self.point_norm(hidden)
        return normed + self.drop(self.point(normed))


class SasrecScorer(Scorer):
    """A trained SASRec on live histories."""

    batch_events = 512

    def __init__(self, model: Sasrec) -> None:
        self._model = model.eval()

    def score(self, blocks: Sequence[Block]) -> Tensor:
        """`[B, I]` fp32, on the model's device."""
        model, device = self._model, self._model.rows.device
        histories = [block.history[-model.settings.window :] for block in blocks]
        lengths = np.array([len(history) + 1 for history in histories])
        items = np.full((len(blocks), lengths.max()), model.num_items + 1)
        items[:, 0] = model.num_items
        for row, history in enumerate(histories):
            items[row, 1 : 1 + len(history)] = history
        ends = torch.from_numpy(lengths).to(device)
        with torch.inference_mode():
            states = model(torch.from_numpy(items).to(device), ends)
            return states[torch.arange(len(blocks), device=device), ends - 1] @ model.rows.T
