"""`diff`, `scatter` and the checksum on a CPU: numba, all cores.

A scatter reads and writes single elements, but in ascending order within a tensor, so that the processor's
prefetchers follow; the checksum of a block of entries is then one vectorised loop over the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch

from kernels.jit import byte_pointer, inline, parallel, prange, prefetch_for_write

_BLOCK = 1 << 14
_AHEAD = 48
"""Entries a scatter prefetches ahead."""
_BLOCKS_AHEAD = 2
"""Blocks of consecutive positions that one asks for ahead: 512 elements."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)


def unsigned(patterns: torch.Tensor) -> np.ndarray:
    """int16 or int32 patterns as the unsigned numpy array that shares their memory."""
    return patterns.numpy().view(np.uint16 if patterns.dtype == torch.int16 else np.uint32)


@inline
def _coefficient(position: Any) -> Any:
    mixed = position * _GOLDEN
    mixed ^= mixed >> _HALF
    mixed *= _MIX
    return (mixed ^ (mixed >> _HALF)) | np.uint64(1)


@parallel
def checksum(patterns: Any, base: Any) -> Any:
    """Σ coefficient(base + i) · pattern[i] mod 2⁶⁴ as uint64; `patterns` uint16 or uint32 [n]."""
    blocks = (patterns.size + _BLOCK - 1) // _BLOCK
    sums = np.zeros(blocks, np.uint64)
    for b in prange(blocks):
        start = np.int64(b) * _BLOCK
        part = patterns[start : min(start + _BLOCK, patterns.size)]
        total = np.uint64(0)
        for i in range(part.size):
            total += _coefficient(np.uint64(base + start) + np.uint64(i)) * np.uint64(part[i])
        sums[b] = total
    return sums.sum()


@parallel
def count_changes(old: Any, new: Any) -> Any:
    """Changed elements of each block of 16,384, int64."""
    blocks = (old.size + _BLOCK - 1) // _BLOCK
    counts = np.zeros(blocks, np.int64)
    for b in prange(blocks):
        start = np.int64(b) * _BLOCK
        before = old[start : min(start + _BLOCK, old.size)]
        after = new[start : min(start + _BLOCK, old.size)]
        count = 0
        for i in range(before.size):
            count += before[i] != after[i]
        counts[b] = count
    return counts


@parallel
def write_changes(old: Any, new: Any, starts: Any, positions: Any, values: Any) -> None:
    """Write each block's changed positions and new values from `starts[block]` on."""
    for b in prange(starts.size):
        start = np.int64(b) * _BLOCK
        before = old[start : min(start + _BLOCK, old.size)]
        after = new[start : min(start + _BLOCK, old.size)]
        at = starts[b]
        for i in range(before.size):
            if before[i] != after[i]:
                positions[at] = start + i
                values[at] = after[i]
                at += 1


@inline
def _offsets(positions: Any, region: Any, offsets: Any) -> Any:
    """Element offset from the region's start of each position, −1 outside it; a division only where a row ends."""
    stride, columns, row0, row1, column0, column1 = region[1], region[2], region[3], region[4], region[5], region[6]
    row, row_start, row_stop = np.int64(0), np.int64(0), np.int64(0)
    for j in range(positions.size):
        position = np.int64(positions[j])
        if position >= row_stop:
            row = position // columns
            row_start = row * columns
            row_stop = row_start + columns
        column = position - row_start
        inside = (row >= row0) & (row < row1) & (column >= column0) & (column < column1)
        offsets[j] = (row - row0) * stride + (column - column0) if inside else -1


@inline
def _exchange(live: Any, offsets: Any, values: Any, undo: Any, keep: Any, moved: Any) -> None:
    """Swap values in at `offsets`; `moved` (int64) gets new − old, 0 outside the region."""
    home, width = live.ctypes.data, live.itemsize
    for j in range(offsets.size):
        prefetch_for_write(home + width * offsets[min(j + _AHEAD, offsets.size - 1)])
        offset = offsets[j]
        moved[j] = 0
        if offset >= 0:
            old = live[offset]
            live[offset] = values[j]
            moved[j] = np.int64(values[j]) - np.int64(old)
            if keep:
                undo[j] = old


@inline
def _exchange_run(live: Any, first: Any, region: Any, values: Any, undo: Any, keep: Any) -> Any:
    """`_exchange` for consecutive positions from `first` on, row by row; returns how the checksum moves."""
    stride, columns = region[1], region[2]
    total, j = np.uint64(0), 0
    while j < values.size:
        row = (first + j) // columns
        column = first + j - row * columns
        length = min(columns - column, values.size - j)
        begin, end = max(column, region[5]), min(column + length, region[6])
        if region[3] <= row < region[4] and begin < end:
            offset = (row - region[3]) * stride + begin - region[5]
            mine = live[offset : offset + end - begin]
            new = values[j + begin - column : j + end - column]
            old = undo[j + begin - column : j + end - column]
            at = np.uint64(region[7] + offset)
            for i in range(mine.size):
                moved = np.uint64(np.int64(new[i]) - np.int64(mine[i]))
                total += _coefficient(at + np.uint64(i)) * moved
            if keep:
                for i in range(mine.size):
                    old[i] = mine[i]
            for i in range(mine.size):
                mine[i] = new[i]
        j += length
    return total


@inline
def _prefetch_run(regions: Any, block: Any, itemsize: Any) -> None:
    """Ask for the live memory of a block of consecutive positions, as if its row went on to the block's end.

    The processor's own prefetchers start anew at each row: without this a row of 2 KiB takes 1.7 times as long.
    """
    region, first = regions[block[0]], block[3]
    if first < 0:
        return
    row, columns = first // region[2], region[2]
    offset = (row - region[3]) * region[1] + first - row * columns - region[5]
    home = region[0] + offset * itemsize
    for line in range(0, (block[2] - block[1]) * itemsize, 64):
        prefetch_for_write(home + line)


@parallel
def scatter(regions: Any, blocks: Any, positions: Any, values: Any, undo: Any, keep: Any) -> Any:
    """Write `values` at `positions` block by block; returns by how much the checksum moves, uint64.

    `regions` int64 [R, 8] and `blocks` int64 [B, 4] as `LiveModel` tabulates them; `values` and `undo` uint16 or
    uint32 [M], the old values going to `undo` where `keep`.
    """
    sums = np.zeros(blocks.shape[0], np.uint64)
    for b in prange(blocks.shape[0]):
        _prefetch_run(regions, blocks[min(b + _BLOCKS_AHEAD, blocks.shape[0] - 1)], values.itemsize)
        region = regions[blocks[b, 0]]
        start, stop, first = blocks[b, 1], blocks[b, 2], blocks[b, 3]
        size = ((region[4] - region[3]) * region[1] + region[2]) * values.itemsize
        live = numba.carray(byte_pointer(np.uint64(region[0])), (size,)).view(values.dtype)
        if first >= 0:
            sums[b] = _exchange_run(live, first, region, values[start:stop], undo[start:stop], keep)
            continue
        offsets = np.empty(stop - start, np.int64)
        moved = np.empty(stop - start, np.int64)
        _offsets(positions[start:stop], region, offsets)
        _exchange(live, offsets, values[start:stop], undo[start:stop], keep, moved)
        total = np.uint64(0)
        for j in range(offsets.size):
            total += _coefficient(np.uint64(region[7]) + np.uint64(offsets[j])) * np.uint64(moved[j])
        sums[b] = total
    return sums.sum()


def scatter_into(
    regions: torch.Tensor,
    blocks: torch.Tensor,
    positions: torch.Tensor,
    values: torch.Tensor,
    undo: torch.Tensor | None,
    sums: torch.Tensor,
) -> None:
    """`scatter` over torch tensors; the checksum's move is added to `sums[0]`."""
    kept = unsigned(values if undo is None else undo)
    moved = scatter(regions.numpy(), blocks.numpy(), positions.numpy(), unsigned(values), kept, undo is not None)
    sums[0] += signed(int(moved))


def checksum_of(flat: Sequence[torch.Tensor], bases: Sequence[int]) -> int:
    """The checksum over flat tensors of patterns whose first elements have positions `bases`, unsigned."""
    return sum(int(checksum(unsigned(part), base)) for part, base in zip(flat, bases, strict=True)) % 2**64


def signed(word: int) -> int:
    """`word` mod 2⁶⁴ as torch's int64 holds it."""
    return (word + 2**63) % 2**64 - 2**63
