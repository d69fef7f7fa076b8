"""Logits of 64 items at a time: dot products for a few rows, else a product whose sums stay in registers.

Calls into a BLAS cannot be made from several threads of one parallel region, and a region a block waits for the
slowest thread each time; this way a search is one region. For few rows memory is the limit, and the BLAS at hand reads
a matrix at half its speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kernels.jit import counting, inline, multiplier

LANES = 16
"""Rows whose logits are handled together: one cache line."""
TILE = 64
"""Items at a time: 16 KiB of logits at 64 rows."""
FEW = 4
"""Up to so many rows dot products keep up with memory."""

_multiply_16, _multiply_32, _multiply_64 = multiplier(8, 1), multiplier(8, 2), multiplier(4, 4)


def panel_width(rows: int) -> int:
    """Columns of a panel for `rows` rows: 16, 32 or 64."""
    return 16 if rows <= 16 else 32 if rows <= 32 else 64


def panels_of(queries: torch.Tensor) -> torch.Tensor:
    """`queries` [B, D] as panels [⌈B / w⌉, D, w], each to be read from front to back; zeros where B ends."""
    (rows, depth), width = queries.shape, panel_width(queries.shape[0])
    number = -(-rows // width)
    padded = torch.zeros(number * width, depth)
    padded[:rows] = queries
    return padded.view(number, width, depth).transpose(1, 2).contiguous()


@inline
def widen(items: Any, wide: Any) -> Any:
    """`items` [n ≤ 64, D] as fp32 with at least 64 readable rows where n = 64; `wide` fp32 [64, D] is scratch."""
    if items.itemsize == 4 and items.shape[0] == TILE:
        return items.view(np.float32)
    if items.itemsize == 4:
        wide[: items.shape[0]] = items
    else:
        patterns = wide.view(np.uint32)
        for i in range(items.shape[0]):
            for j in range(items.shape[1]):
                patterns[i, j] = np.uint32(items[i, j]) << np.uint32(16)
    return wide


@counting
def _dot(left: Any, right: Any) -> Any:
    """Σ left · right of two fp32 [D], in whatever order fills the vector registers."""
    total = np.float32(0)
    for i in range(left.size):
        total += left[i] * right[i]
    return total


@inline
def _panel_products(panel: Any, items: Any, logits: Any, column: Any) -> None:
    """Columns of `logits` [64, P] from `column` on: `items` fp32 [64, D] times `panel` [D, w]."""
    depth, width = panel.shape
    source, step, target, row = panel.ctypes.data, items.strides[0], logits.ctypes.data + 4 * column, logits.strides[0]
    if width == 16:
        for i in range(0, TILE, 8):
            _multiply_16(source, items.ctypes.data + i * step, step, depth, target + i * row, row)
    elif width == 32:
        for i in range(0, TILE, 8):
            _multiply_32(source, items.ctypes.data + i * step, step, depth, target + i * row, row)
    else:
        for i in range(0, TILE, 4):
            _multiply_64(source, items.ctypes.data + i * step, step, depth, target + i * row, row)


@inline
def multiply_tile(queries: Any, panels: Any, items: Any, number: Any, logits: Any) -> None:
    """logits[i, b] = items[i] · queries[b] for `number` ≤ 64 `items` [64, D]; what is beyond is of no use."""
    if queries.shape[0] <= FEW:
        for i in range(number):
            for b in range(queries.shape[0]):
                logits[i, b] = _dot(queries[b], items[i])
    else:
        for p in range(panels.shape[0]):
            _panel_products(panels[p], items, logits, p * panels.shape[2])
