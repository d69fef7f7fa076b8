"""`diff`, `scatter` and the checksum in Triton. A scatter is one launch over all tensors' entries.

Every address is 64-bit arithmetic; a block of entries finds its tensor in a table, and the tensor its region.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.delta.model_delta import BITS_OF, INT32_LIMIT, TensorDelta

_DIFF_BLOCK = 2048
_PIECE = 16_384


@triton.jit
def coefficient(position):
    """The checksum's odd factor of each position, int64."""
    mixed = position.to(tl.uint64) * 0x9E3779B97F4A7C15
    mixed ^= mixed >> 32
    mixed *= 0xD6E8FEB86659FD93
    return ((mixed ^ (mixed >> 32)) | 1).to(tl.int64, bitcast=True)


@triton.jit
def _scatter_kernel(
    regions,
    blocks,
    positions,
    values,
    undo,
    sums,
    KEEP: tl.constexpr,
    BYTES: tl.constexpr,
    PARTIAL_SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    MASK: tl.constexpr = 2 ** (8 * BYTES) - 1
    program = tl.program_id(0).to(tl.int64)
    region = regions + tl.load(blocks + program * 4) * 8
    start = tl.load(blocks + program * 4 + 1)
    stop = tl.load(blocks + program * 4 + 2)
    live = tl.load(region).to(values.dtype)
    stride = tl.load(region + 1)
    columns = tl.load(region + 2)
    row0 = tl.load(region + 3)
    row1 = tl.load(region + 4)
    column0 = tl.load(region + 5)
    column1 = tl.load(region + 6)
    base = tl.load(region + 7)
    entry = start + tl.arange(0, BLOCK)
    given = entry < stop
    first = tl.load(blocks + program * 4 + 3)
    if first < 0:
        position = tl.load(positions + entry, mask=given, other=0)
    else:
        position = (first + tl.arange(0, BLOCK)).to(positions.dtype.element_ty)
    row = position // columns.to(position.dtype)
    column = (position - row * columns.to(position.dtype)).to(tl.int64)
    row = row.to(tl.int64)
    inside = given & (row >= row0) & (row < row1) & (column >= column0) & (column < column1)
    offset = (row - row0) * stride + (column - column0)
    old = tl.load(live + offset, mask=inside, other=0)
    new = tl.load(values + entry, mask=inside, other=0)
    if KEEP:
        tl.store(undo + entry, old, mask=inside)
    # One atomic exclusive-or where a 2-byte store would do: a partial write of a sector makes the second-level cache
    # fetch it again, an atomic finds it there. Neighbours in the word are left alone.
    address = tl.load(region) + offset * BYTES
    flip = (old ^ new).to(tl.int32)
    if BYTES == 2:
        flip = (flip & 0xFFFF) << ((address & 2) * 8).to(tl.int32)
    tl.atomic_xor((address & -4).to(tl.pointer_type(tl.int32)), flip, mask=inside, sem="relaxed")
    moved = (new.to(tl.int64) & MASK) - (old.to(tl.int64) & MASK)
    tl.atomic_add(sums + program % PARTIAL_SUMS, tl.sum(coefficient(base + offset) * moved), sem="relaxed")


@triton.jit
def _checksum_kernel(pieces, patterns, sums, MASK: tl.constexpr, PARTIAL_SUMS: tl.constexpr, BLOCK: tl.constexpr):
    """One piece: (address, position of its first element, elements); `patterns` only lends its element type."""
    program = tl.program_id(0).to(tl.int64)
    home = tl.load(pieces + program * 3).to(patterns.dtype)
    base = tl.load(pieces + program * 3 + 1)
    count = tl.load(pieces + program * 3 + 2).to(tl.int32)
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(0, count, BLOCK):
        element = start + tl.arange(0, BLOCK)
        pattern = tl.load(home + element, mask=element < count, other=0).to(tl.int64) & MASK
        total += coefficient(base + element) * pattern
    tl.atomic_add(sums + program % PARTIAL_SUMS, tl.sum(total), sem="relaxed")


@triton.jit
def _count_kernel(old, new, counts, num_elements, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    element = program * BLOCK + tl.arange(0, BLOCK)
    inside = element < num_elements
    changed = tl.load(old + element, mask=inside, other=0) != tl.load(new + element, mask=inside, other=0)
    tl.store(counts + program, tl.sum(changed.to(tl.int32)).to(tl.int64))


@triton.jit
def _write_kernel(old, new, ends, positions, values, num_elements, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    element = program * BLOCK + tl.arange(0, BLOCK)
    inside = element < num_elements
    after = tl.load(new + element, mask=inside, other=0)
    changed = (tl.load(old + element, mask=inside, other=0) != after).to(tl.int32)
    at = tl.load(ends + program) - tl.sum(changed) + tl.cumsum(changed, 0) - 1
    tl.store(positions + at, element.to(positions.dtype.element_ty), mask=changed != 0)
    tl.store(values + at, after, mask=changed != 0)


def scatter_cuda(
    regions: torch.Tensor,
    blocks: torch.Tensor,
    positions: torch.Tensor,
    values: torch.Tensor,
    undo: torch.Tensor | None,
    sums: torch.Tensor,
    num_warps: int = 8,
) -> None:
    """One launch; tables as `LiveModel` makes them, `values` and `undo` int16 or int32 patterns."""
    from kernels.delta.live import ENTRIES_A_BLOCK

    if blocks.shape[0]:
        _scatter_kernel[(blocks.shape[0],)](
            regions,
            blocks,
            positions,
            values,
            values if undo is None else undo,
            sums,
            KEEP=undo is not None,
            BYTES=values.element_size(),
            PARTIAL_SUMS=sums.numel(),
            BLOCK=ENTRIES_A_BLOCK,
            num_warps=num_warps,
        )


def piece_table(tensors: Sequence[torch.Tensor], bases: Sequence[int]) -> torch.Tensor:
    """`[P, 3]` int64 for `checksum_cuda`: flat tensors of patterns, cut into pieces, and their first positions."""
    parts = [np.empty((0, 3), np.int64)]
    for tensor, base in zip(tensors, bases, strict=True):
        start = np.arange(0, tensor.numel(), _PIECE, dtype=np.int64)
        address = tensor.data_ptr() + start * tensor.element_size()
        parts.append(np.stack([address, base + start, np.minimum(tensor.numel() - start, _PIECE)], 1))
    return torch.from_numpy(np.concatenate(parts)).to(tensors[0].device)


def checksum_cuda(pieces: torch.Tensor, like: torch.Tensor) -> int:
    """The checksum over `piece_table`'s pieces in one launch, unsigned; `like` has the patterns' integer type."""
    sums = torch.zeros(256, dtype=torch.int64, device=pieces.device)
    if pieces.shape[0]:
        mask = 2 ** (8 * like.element_size()) - 1
        _checksum_kernel[(pieces.shape[0],)](pieces, like, sums, MASK=mask, PARTIAL_SUMS=256, BLOCK=2048)
    return int(sums.sum()) % 2**64


def diff_cuda(old: torch.Tensor, new: torch.Tensor) -> TensorDelta:
    """Two passes: count the changes of each block, then write them from the block's offset on."""
    total, bits = old.numel(), BITS_OF[old.dtype]
    before, after = old.view(-1).view(bits), new.view(-1).view(bits)
    programs = triton.cdiv(total, _DIFF_BLOCK)
    counts = torch.empty(programs, dtype=torch.int64, device=old.device)
    if programs:
        _count_kernel[(programs,)](before, after, counts, total, BLOCK=_DIFF_BLOCK)
    ends = counts.cumsum(0)
    changed = int(ends[-1]) if programs else 0
    positions = torch.empty(changed, dtype=torch.int64 if total >= INT32_LIMIT else torch.int32, device=old.device)
    values = torch.empty(changed, dtype=old.dtype, device=old.device)
    if changed:
        _write_kernel[(programs,)](before, after, ends, positions, values.view(bits), total, BLOCK=_DIFF_BLOCK)
    return TensorDelta(total, positions, values)
