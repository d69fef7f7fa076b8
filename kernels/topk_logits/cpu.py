"""`topk_logits` on a CPU: a block of items at a time, so that a block's logits never leave the caches.

A row keeps its K best in a heap, worst on top. A block of 64 logits is compared with that worst at once, and nearly
always nothing reaches it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kernels.jit import inline, lanes_at_least, lowest_bit, parallel, prange

BLOCK = 16_384
"""Items a block: 4 MiB of fp32 logits at 64 rows. Smaller ones pay for more parallel regions than the cache saves."""
_SMALLEST = -(2**31)


@inline
def _order(pattern: Any) -> Any:
    """int32 that orders as the float with this int32 pattern (its own inverse)."""
    return pattern ^ ((pattern >> 31) & 0x7FFFFFFF)


@inline
def _sift(keys: Any, ids: Any) -> None:
    """Restore the heap below its top: the smallest key first, of equal keys the largest id."""
    at = 0
    while True:
        worst = at
        for child in range(2 * at + 1, min(2 * at + 3, keys.size)):
            if keys[child] < keys[worst] or (keys[child] == keys[worst] and ids[child] > ids[worst]):
                worst = child
        if worst == at:
            return
        keys[at], keys[worst] = keys[worst], keys[at]
        ids[at], ids[worst] = ids[worst], ids[at]
        at = worst


@parallel
def merge_block(patterns: Any, width: Any, first_id: Any, keys: Any, ids: Any) -> None:
    """Offer `width` logits a row, items `first_id` on, to the heaps `keys`, `ids` [B, K].

    `patterns` int32 [B, a multiple of 64] is changed to ordered keys; columns from `width` on are ignored.
    """
    for row in prange(patterns.shape[0]):
        mine = patterns[row]
        for i in range(mine.size):
            mine[i] = 0 if mine[i] == _SMALLEST else _order(mine[i])
        for i in range(width, mine.size):
            mine[i] = _SMALLEST
        for group in range(mine.size // 64):
            if keys[row, 0] == 0x7FFFFFFF:
                break
            lanes = lanes_at_least(mine.ctypes.data + 256 * group, np.int32(keys[row, 0] + 1))
            while lanes:
                i = 64 * group + lowest_bit(lanes)
                lanes &= lanes - np.uint64(1)
                if mine[i] > keys[row, 0]:
                    keys[row, 0] = mine[i]
                    ids[row, 0] = first_id + i
                    _sift(keys[row], ids[row])


def topk_logits_cpu(
    hidden: torch.Tensor, items: torch.Tensor, k: int, exclude: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.topk_logits.topk_logits`."""
    rows, count = hidden.shape[0], items.shape[0]
    floor = int(_order(np.float32(-np.inf).view(np.int32)))
    keys = np.full((rows, k), floor, np.int32)
    ids = np.full((rows, k), -1, np.int64)
    queries = hidden.float()
    totals = torch.full((rows,), float("-inf"))
    buffer = torch.empty(rows, -(-min(BLOCK, max(count, 1)) // 64) * 64)
    for first in range(0, count, BLOCK):
        part = items[first : first + BLOCK].float()
        width = part.shape[0]
        logits = torch.mm(queries, part.T)
        # log_softmax is one fused pass where logsumexp is four: 1 ms of 4 a block.
        totals = torch.logaddexp(totals, logits[:, 0] - torch.log_softmax(logits, 1)[:, 0])
        if exclude is not None:
            logits.masked_fill_(exclude[..., first : first + width], float("-inf"))
        if width % 64:
            buffer[:, :width] = logits
            logits = buffer
        merge_block(logits.view(torch.int32).numpy(), width, first, keys, ids)
    order = np.lexsort((ids, -keys.astype(np.int64)), axis=-1)
    scores = np.take_along_axis(_order(keys).astype(np.int32), order, 1).view(np.float32)
    return torch.from_numpy(scores), torch.from_numpy(np.take_along_axis(ids, order, 1)), totals
