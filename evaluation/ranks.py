"""`recommender.ranking.tied_ranks` for scores on any device, and which items a row's first k are."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recommender.ranking import TiedRanks

EVENTS = 1024
"""Events ranked at once: with 18,357 items a comparison takes 75 MB."""


def tied_ranks(scores: Tensor, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> TiedRanks:
    """Where each target stands among the items of its row, those at -inf left out.

    Args:
        scores: `[B, I]`, masks applied as -inf. rows, targets: `[E]`.

    Raises:
        ValueError: scores that are NaN.
    """
    if torch.isnan(scores).any():
        raise ValueError("scores hold NaN; a ranking of them means nothing")
    row, target = torch.from_numpy(rows).to(scores.device), torch.from_numpy(targets).to(scores.device)
    own = scores[row, target]
    above, tied = torch.empty_like(row), torch.empty_like(row)
    for start in range(0, len(row), EVENTS):
        part = slice(start, start + EVENTS)
        field, mine = scores[row[part]], own[part, None]
        above[part] = (field > mine).sum(dim=1)
        tied[part] = (field == mine).sum(dim=1)
    tied[torch.isneginf(own)] = 0
    return TiedRanks(above.cpu().numpy(), tied.cpu().numpy())


def top_mask(scores: Tensor, k: int) -> Tensor:
    """`[B, I]` bool: whether the item is among its row's first `k`, ties by item order, -inf never."""
    k = min(k, scores.shape[1])
    threshold = scores.topk(k, dim=1).values[:, -1:]
    above = scores > threshold
    tied = scores == threshold
    room = k - above.sum(dim=1, keepdim=True)
    return (above | (tied & (tied.cumsum(dim=1) <= room))) & ~torch.isneginf(scores)
