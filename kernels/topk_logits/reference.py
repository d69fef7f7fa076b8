"""`topk_logits` written for reading: all logits in float64, one stable sort."""

from __future__ import annotations

import torch


def topk_logits_reference(
    hidden: torch.Tensor, items: torch.Tensor, k: int, exclude: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores `[B, K]` float64, item numbers `[B, K]` int64 and log-sum-exp `[B]` over all items, excluded ones too."""
    logits = hidden.double() @ items.double().T
    total = torch.logsumexp(logits, 1)
    if exclude is not None:
        logits = logits.masked_fill(exclude, float("-inf"))
    order = torch.argsort(logits, dim=1, descending=True, stable=True)[:, :k]
    scores = logits.gather(1, order)
    return scores, torch.where(scores == float("-inf"), -1, order), total
