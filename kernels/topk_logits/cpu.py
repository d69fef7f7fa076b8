"""`topk_logits` on a CPU: one parallel region, in which each turn takes a span of the items, 64 at a time.

The 64 items' logits, `[64, P]` with the rows padded to P columns, never leave the first-level cache: 16 rows' logits
meet 16 rows' K-th best in one compare, and nearly always nothing reaches it. A row keeps its K best in a heap, worst
on top, one a span; the spans' heaps are joined at the end. Products are `products.py`'s.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kernels.jit import as_float32, inline, lanes_above, lowest_bit, parallel, prange
from kernels.topk_logits.products import LANES, TILE, multiply_tile, panel_width, panels_of, widen

SPANS = 16
"""Turns of the parallel loop, whatever the machine: the log-sum-exp's rounding depends on them."""


@inline
def _sift(scores: Any, ids: Any) -> None:
    """Restore the heap below its top: the smallest score first, of equal scores the largest id."""
    at = 0
    while True:
        worst = at
        for child in range(2 * at + 1, min(2 * at + 3, scores.size)):
            if scores[child] < scores[worst] or (scores[child] == scores[worst] and ids[child] > ids[worst]):
                worst = child
        if worst == at:
            return
        scores[at], scores[worst] = scores[worst], scores[at]
        ids[at], ids[worst] = ids[worst], ids[at]
        at = worst


@inline
def _exp(value: Any) -> Any:
    """e^value, fp32, of value ≤ 0, to 2.4e-7; below −87 as at −87. Vectorises, where libm's does not.

    2ⁿ · e^r, n to the nearest, so |r| ≤ ln 2 / 2, where seven Taylor terms leave 1.2e-7. A NaN stays one.
    """
    value = np.float32(-87) if value < np.float32(-87) else value
    # Adding 1.5 · 2²³ leaves the nearest integer in the mantissa's low bits.
    shifted = value * np.float32(1.442695041) + np.float32(12582912)
    whole = shifted - np.float32(12582912)
    rest = value - whole * np.float32(0.693145752) - whole * np.float32(1.42860677e-6)
    power = np.float32(1 / 720)
    for term in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        power = power * rest + np.float32(term)
    return power * as_float32((np.int32(whole) + np.int32(127)) << np.int32(23))


@inline
def _exponentials(tile: Any, tops: Any) -> None:
    """tile ← e^(tile − tops)."""
    for i in range(tile.size):
        tile[i] = _exp(tile[i] - tops[i])


@inline
def _halve(tile: Any, size: Any) -> None:
    for i in range(size):
        tile[i] += tile[size + i]


@inline
def _add_exponentials(logits: Any, number: Any, row: Any, top: Any, total: Any, tile: Any, tops: Any) -> None:
    """Add Σ e^(logit − top) of the first `number` of `logits` [64, P], 16 columns from `row` on, to `total` fp64 [16].

    `tile` and `tops` are fp32 [1024] scratch. Flat loops: one over 16 columns would be unrolled, not vectorised.
    """
    for i in range(TILE):
        for b in range(LANES):
            tile[i * LANES + b] = logits[i, row + b]
            tops[i * LANES + b] = max(top[b], np.float32(-3e38))
    tile[number * LANES :] = -np.inf
    _exponentials(tile, tops)
    size = TILE * LANES // 2
    while size >= LANES:
        _halve(tile, size)
        size //= 2
    for b in range(LANES):
        total[b] += tile[b]


@inline
def _offer(
    logits: Any,
    number: Any,
    first_id: Any,
    row: Any,
    floor: Any,
    scores: Any,
    ids: Any,
    exclude: Any,
    top: Any,
    total: Any,
) -> None:
    """Offer the first `number` of `logits` [64, P] to the heaps of 16 rows from `row` on, whose worst are in `floor`.

    What is above a row's `top` fp32 [16] so far is above that too, so the maxima are found on the way; `total` follows.
    """
    home = logits.ctypes.data + 4 * row
    for i in range(number):
        lanes = np.uint64(lanes_above(home + i * logits.strides[0], floor.ctypes.data))
        while lanes:
            b = lowest_bit(lanes)
            lanes &= lanes - np.uint64(1)
            logit = logits[i, row + b]
            if logit > top[b]:
                total[b] *= np.exp(np.float64(top[b]) - np.float64(logit))
                top[b] = logit
            if exclude.size and exclude[(row + b) % exclude.shape[0], first_id + i]:
                continue
            scores[row + b, 0] = logit
            ids[row + b, 0] = first_id + i
            _sift(scores[row + b], ids[row + b])
            floor[b] = scores[row + b, 0]


@parallel
def search(
    queries: Any, panels: Any, items: Any, span: Any, scores: Any, ids: Any, exclude: Any, top: Any, total: Any
) -> None:
    """Each span's K best of each row, and its log-sum-exp.

    `queries` fp32 [B, D], `panels` as of `panels_of`, `items` fp32 or bf16 patterns (uint16) [N, D], `span` items
    a turn, `scores` fp32 and `ids` int64 [S, B, K] heaps, `exclude` bool [B or 1, N] or [0, 0], `top` fp32 and `total`
    fp64 [S, P].
    """
    for s in prange(scores.shape[0]):
        logits = np.zeros((TILE, top.shape[1]), np.float32)
        tile, tops = np.empty(TILE * LANES, np.float32), np.empty(TILE * LANES, np.float32)
        floor = np.full(top.shape[1], np.inf, np.float32)
        floor[: queries.shape[0]] = -np.inf
        wide = np.zeros((TILE, items.shape[1]), np.float32)
        for first in range(s * span, min((s + 1) * span, items.shape[0]), TILE):
            number = min(TILE, min((s + 1) * span, items.shape[0]) - first)
            multiply_tile(queries, panels, widen(items[first : first + number], wide), number, logits)
            for row in range(0, queries.shape[0], LANES):
                part = slice(row, row + LANES)
                _offer(
                    logits, number, first, row, floor[part], scores[s], ids[s], exclude, top[s][part], total[s][part]
                )
                _add_exponentials(logits, number, row, top[s][part], total[s][part], tile, tops)


@parallel
def join(scores: Any, ids: Any) -> None:
    """The spans' heaps [S, B, K] into the first; items ascend with the span, so an equal score stays out."""
    for row in prange(scores.shape[1]):
        best, numbers = scores[0, row], ids[0, row]
        for s in range(1, scores.shape[0]):
            for j in range(best.size):
                if scores[s, row, j] > best[0] or (scores[s, row, j] == best[0] and ids[s, row, j] < numbers[0]):
                    best[0], numbers[0] = scores[s, row, j], ids[s, row, j]
                    _sift(best, numbers)


def topk_logits_cpu(
    hidden: torch.Tensor, items: torch.Tensor, k: int, exclude: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.topk_logits.topk_logits`."""
    rows, count = hidden.shape[0], items.shape[0]
    queries = hidden.float()
    panels = panels_of(queries)
    span = -(-count // (SPANS * TILE)) * TILE
    spans = -(-count // span)
    scores, ids = np.full((spans, rows, k), -np.inf, np.float32), np.full((spans, rows, k), -1, np.int64)
    padded = -(-rows // panel_width(rows)) * panel_width(rows)
    top, total = np.full((spans, padded), -np.inf, np.float32), np.zeros((spans, padded))
    mask = np.zeros((0, 0), np.bool_) if exclude is None else exclude.view(-1, count).numpy()
    table = items.view(torch.uint16) if items.dtype == torch.bfloat16 else items
    search(queries.numpy(), panels.numpy(), table.numpy(), span, scores, ids, mask, top, total)
    join(scores, ids)
    order = np.lexsort((ids[0], -scores[0]), axis=-1)
    best, numbers = np.take_along_axis(scores[0], order, 1), np.take_along_axis(ids[0], order, 1)
    return torch.from_numpy(best), torch.from_numpy(numbers), _log_sum_exp(top[:, :rows], total[:, :rows])


def _log_sum_exp(top: np.ndarray, total: np.ndarray) -> torch.Tensor:
    """Of the spans' maxima and sums [S, B]; a maximum that is not finite is the answer."""
    highest = top.max(0)
    finite = np.isfinite(highest)
    base = np.where(finite, highest, 0)
    shares = np.where(finite, total * np.exp(top.astype(np.float64) - base), 1)
    return torch.from_numpy(np.where(finite, base + np.log(shares.sum(0)), highest).astype(np.float32))
