"""The K best items for hidden states, without writing the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kernels.checks import require

MAX_K = 1024


@dataclass(frozen=True)
class TopItems:
    """The best items of each row.

    Attributes:
        scores: `[B, K]` fp32 logits, best first; −∞ where fewer than K items are left.
        items: `[B, K]` int64 numbers; of equal scores the smaller first; −1 where the score is −∞.
        log_sum_exp: `[B]` fp32, over all items, excluded ones too: `scores − log_sum_exp` are log-probabilities
            over the catalogue that do not depend on what was excluded.
    """

    scores: torch.Tensor
    items: torch.Tensor
    log_sum_exp: torch.Tensor


def topk_logits(hidden: torch.Tensor, items: torch.Tensor, k: int, exclude: torch.Tensor | None = None) -> TopItems:
    """Top-K of `hidden @ items.T`, ties to the smaller item number.

    Args:
        hidden: `[B, D]` bf16 or fp32.
        items: `[N, D]`, the item embedding, same dtype; N ≤ 10⁶ is what this is built for.
        k: 1 to 1024, at most N.
        exclude: `[B, N]` or `[N]` bool, items that must not be returned; None for none.

    Raises:
        TypeError, ValueError: dtype, layout, shape or device, with the mend. On a GPU D is a power of two from 16.
    """
    require(hidden, "hidden", (torch.bfloat16, torch.float32))
    require(items, "items", (hidden.dtype,), like=hidden)
    if hidden.dim() != 2 or items.dim() != 2 or hidden.shape[1] != items.shape[1]:
        raise ValueError(
            f"hidden is {tuple(hidden.shape)}, items {tuple(items.shape)}: they should be [B, D] and [N, D]"
        )
    if not 1 <= k <= min(MAX_K, items.shape[0]):
        raise ValueError(f"k={k}: take 1 to {min(MAX_K, items.shape[0])}")
    if exclude is not None:
        require(exclude, "exclude", (torch.bool,), like=hidden)
        if exclude.shape not in ((hidden.shape[0], items.shape[0]), (items.shape[0],)):
            raise ValueError(f"exclude is {tuple(exclude.shape)}: it should be [{hidden.shape[0]}, {items.shape[0]}]")
    if hidden.shape[0] == 0:
        empty = hidden.new_empty(0, k, dtype=torch.float32)
        return TopItems(empty, empty.long(), empty.new_empty(0))
    if hidden.device.type == "cuda":
        from kernels.topk_logits.triton import topk_logits_cuda

        width = hidden.shape[1]
        if width < 16 or width & (width - 1):
            raise ValueError(f"D={width}: on a GPU pad hidden and items with zeros to a power of two from 16")
        return TopItems(*topk_logits_cuda(hidden, items, k, exclude))
    from kernels.topk_logits.cpu import topk_logits_cpu

    return TopItems(*topk_logits_cpu(hidden, items, k, exclude))


def merge_shards(shards: Sequence[TopItems], first_items: Sequence[int]) -> TopItems:
    """One answer from those of vocabulary shards; shard s holds the items from `first_items[s]` on, ascending.

    Equal to `topk_logits` over the whole matrix where each shard was asked for the same K.
    """
    k = shards[0].scores.shape[1]
    scores = torch.cat([shard.scores for shard in shards], 1)
    items = torch.cat(
        [
            torch.where(shard.items < 0, -1, shard.items + first)
            for shard, first in zip(shards, first_items, strict=True)
        ],
        1,
    )
    order = torch.argsort(scores, dim=1, descending=True, stable=True)[:, :k]
    total = torch.logsumexp(torch.stack([shard.log_sum_exp for shard in shards]), 0)
    return TopItems(scores.gather(1, order), items.gather(1, order), total)


__all__ = ["MAX_K", "TopItems", "merge_shards", "topk_logits"]
