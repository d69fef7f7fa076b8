"""`topk_logits` in Triton: logits live in registers, and only the maximum of each 32 neighbouring items is stored.

The K best items lie in the K groups with the largest maxima (ties to the smaller group: a group that loses has K
items before each of its own). So: one pass over the item matrix, a selection among the maxima, and the logits of
the K chosen groups once more.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

GROUP = 32


@triton.jit
def _order(value):
    """int32 that orders as the fp32 `value`; NaN as −∞, −0 as 0."""
    value = tl.where(value == value, value + 0.0, float("-inf"))
    pattern = value.to(tl.int32, bitcast=True)
    return pattern ^ ((pattern >> 31) & 0x7FFFFFFF)


@triton.jit
def _unorder(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _maxima_kernel(
    hidden,
    items,
    exclude,
    maxima,
    tops,
    sums,
    num_rows,
    num_items,
    exclude_stride,
    num_groups,
    num_tiles,
    WIDTH: tl.constexpr,
    HAS_EXCLUDE: tl.constexpr,
    ITEMS: tl.constexpr,
    ROWS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Group maxima [B, G] after the mask; per tile and row the largest logit and Σ exp(logit − largest) before it."""
    tile = tl.program_id(0)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    item = tile.to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    depth = tl.arange(0, DEPTH)
    there = item < num_items
    asked = row < num_rows
    total = tl.zeros([ITEMS, ROWS], tl.float32)
    for start in range(0, WIDTH, DEPTH):
        left = tl.load(items + item[:, None] * WIDTH + (start + depth)[None, :], mask=there[:, None], other=0.0)
        right = tl.load(hidden + row[None, :] * WIDTH + (start + depth)[:, None], mask=asked[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    total = tl.where(there[:, None], total, float("-inf"))
    top = tl.max(total, 0)
    # A row of −∞ only (never with finite weights) would give NaN; 0 instead keeps its sum at 0.
    finite = tl.where(top == float("-inf"), 0.0, top)
    tl.store(tops + row * num_tiles + tile, top, mask=asked)
    tl.store(sums + row * num_tiles + tile, tl.sum(tl.exp(total - finite[None, :]), 0), mask=asked)
    if HAS_EXCLUDE:
        at = exclude + row[None, :].to(tl.int64) * exclude_stride + item[:, None]
        out = tl.load(at, mask=there[:, None] & asked[None, :], other=1)
        total = tl.where(out != 0, float("-inf"), total)
    best = tl.max(tl.reshape(total, [ITEMS // GROUP, GROUP, ROWS]), 1)
    group = tile * (ITEMS // GROUP) + tl.arange(0, ITEMS // GROUP)
    at = maxima + row[None, :].to(tl.int64) * num_groups + group[:, None]
    tl.store(at, best, mask=(group < num_groups)[:, None] & asked[None, :])


@triton.jit
def _count(values, number, threshold, BLOCK: tl.constexpr):
    """How many of the first `number` fp32 at `values` have an ordered key of at least `threshold`."""
    count = tl.zeros([BLOCK], tl.int32)
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        key = _order(tl.load(values + at, mask=at < number, other=float("-inf")))
        count += ((key >= threshold) & (at < number)).to(tl.int32)
    return tl.sum(count)


@triton.jit
def _select_kernel(values, chosen, number, K: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    """The K largest of each row of `values` [B, number], ties to the smaller place: their places, ascending.

    `chosen` int32 [B, SLOTS] ends in −1 where fewer than K are above −∞.
    """
    row = tl.program_id(0).to(tl.int64)
    values += row * number
    chosen += row * SLOTS
    top = tl.full([BLOCK], -2147483648, tl.int32)
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, _order(tl.load(values + at, mask=at < number, other=float("-inf"))))
    # 64-bit bounds: ordered keys span the whole int32 range. Below the smallest finite key lies −∞.
    high = tl.max(top).to(tl.int64) + 1
    low = high * 0 - 2139095040
    floor = low
    above = tl.max(top) * 0
    threshold = low
    taken = above
    width = high * 0 + 8388608
    separated = high <= low
    probed = high * 0
    while (high - low > 1) & (separated == 0):
        middle = tl.where(probed != 0, low + (high - low) // 2, tl.maximum(high - width, floor))
        count = _count(values, number, middle.to(tl.int32), BLOCK)
        separated = (count == K) | ((count < K) & (middle == floor))
        threshold = middle
        taken = count
        more = count > K
        probed = tl.where(more, 1, probed).to(tl.int64)
        low = tl.where(more, middle, low)
        above = tl.where(more, above, count)
        high = tl.where(more, high, middle)
        width = width * 2
    ties = tl.where(separated, K, K - above)
    threshold = tl.where(separated, threshold, low).to(tl.int32)
    slot = tl.arange(0, SLOTS)
    tl.store(chosen + slot, tl.full([SLOTS], -1, tl.int32))
    tl.debug_barrier()
    written = above * 0
    seen = above * 0
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        key = _order(tl.load(values + at, mask=at < number, other=float("-inf")))
        inside = (at < number) & (key >= -2139095040)
        equal = (inside & (key == threshold)).to(tl.int32)
        rank = seen + tl.cumsum(equal, 0) - equal
        take = (inside & (key > threshold)) | ((equal != 0) & (rank < ties))
        place = written + tl.cumsum(take.to(tl.int32), 0) - 1
        tl.store(chosen + place, at, mask=take & (place < SLOTS))
        written += tl.sum(take.to(tl.int32))
        seen += tl.sum(equal)


@triton.jit
def _rescore_kernel(
    hidden,
    items,
    exclude,
    chosen,
    scores,
    num_items,
    exclude_stride,
    WIDTH: tl.constexpr,
    HAS_EXCLUDE: tl.constexpr,
    SLOTS: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Logits of the chosen groups' items into `scores` [B, SLOTS · GROUP]; −∞ for the excluded and the missing."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * GROUPS * GROUP + tl.arange(0, GROUPS * GROUP)
    group = tl.load(chosen + row * SLOTS + place // GROUP, mask=place < SLOTS * GROUP, other=-1)
    item = group.to(tl.int64) * GROUP + place % GROUP
    there = (group >= 0) & (item < num_items)
    total = tl.zeros([GROUPS * GROUP], tl.float32)
    for start in range(0, WIDTH, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        left = tl.load(items + item[:, None] * WIDTH + depth[None, :], mask=there[:, None], other=0.0).to(tl.float32)
        right = tl.load(hidden + row * WIDTH + depth).to(tl.float32)
        total += tl.sum(left * right[None, :], 1)
    if HAS_EXCLUDE:
        there = there & (tl.load(exclude + row * exclude_stride + item, mask=there, other=1) == 0)
    tl.store(scores + row * SLOTS * GROUP + place, tl.where(there, total, float("-inf")), mask=place < SLOTS * GROUP)


@triton.jit
def _finish_kernel(
    scores, chosen, places, out_scores, out_ids, K: tl.constexpr, SLOTS: tl.constexpr, GROUP: tl.constexpr
):
    """Sort the K selected places (ascending in `places`) by score, ties to the smaller item."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    place = tl.load(places + row * SLOTS + slot)
    used = (place >= 0) & (slot < K)
    place = tl.where(used, place, 0)
    score = tl.load(scores + row * SLOTS * GROUP + place, mask=used, other=float("-inf"))
    # Places ascend with the item number, since the groups ascend: the place is the tie-break.
    key = (_order(score).to(tl.int64) << 16) | (65535 - place)
    key = tl.sort(tl.where(used, key, -9223372036854775807), descending=True)
    place = 65535 - (key & 65535).to(tl.int32)
    used = key != -9223372036854775807
    place = tl.where(used, place, 0)
    score = _unorder((key >> 16).to(tl.int32))
    group = tl.load(chosen + row * SLOTS + place // GROUP, mask=used, other=0)
    item = tl.where(used, group.to(tl.int64) * GROUP + place % GROUP, -1)
    tl.store(out_scores + row * K + slot, tl.where(used, score, float("-inf")), mask=slot < K)
    tl.store(out_ids + row * K + slot, item, mask=slot < K)


def topk_logits_cuda(
    hidden: torch.Tensor,
    items: torch.Tensor,
    k: int,
    exclude: torch.Tensor | None,
    tile: int = 128,
    depth: int = 64,
    num_warps: int = 4,
    num_stages: int = 4,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.topk_logits.topk_logits`."""
    (rows, width), count = hidden.shape, items.shape[0]
    device = hidden.device
    tiles, groups = triton.cdiv(count, tile), triton.cdiv(count, GROUP)
    block_rows = min(64, max(16, triton.next_power_of_2(rows)))
    depth = min(depth, width)
    maxima = torch.empty(rows, groups, device=device)
    partial = torch.empty(2, rows, tiles, device=device)
    flags = hidden if exclude is None else exclude.view(torch.uint8)
    stride = 0 if exclude is None or exclude.dim() == 1 else count
    _maxima_kernel[(tiles, triton.cdiv(rows, block_rows))](
        hidden,
        items,
        flags,
        maxima,
        partial[0],
        partial[1],
        rows,
        count,
        stride,
        groups,
        tiles,
        WIDTH=width,
        HAS_EXCLUDE=exclude is not None,
        ITEMS=tile,
        ROWS=block_rows,
        DEPTH=depth,
        GROUP=GROUP,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    top = partial[0].amax(1, keepdim=True)
    total = (top + ((partial[0] - top).exp() * partial[1]).sum(1, keepdim=True).log())[:, 0]
    slots = triton.next_power_of_2(k)
    chosen = torch.empty(rows, slots, dtype=torch.int32, device=device)
    _select_kernel[(rows,)](maxima, chosen, groups, K=k, SLOTS=slots, BLOCK=min(8192, triton.next_power_of_2(groups)), num_warps=16)
    scores = torch.empty(rows, slots * GROUP, device=device)
    _rescore_kernel[(rows, triton.cdiv(slots, 2))](
        hidden,
        items,
        flags,
        chosen,
        scores,
        count,
        stride,
        WIDTH=width,
        HAS_EXCLUDE=exclude is not None,
        SLOTS=slots,
        GROUPS=2,
        GROUP=GROUP,
        DEPTH=min(128, width),
        num_warps=4,
    )
    places = torch.empty(rows, slots, dtype=torch.int32, device=device)
    _select_kernel[(rows,)](scores, places, slots * GROUP, K=k, SLOTS=slots, BLOCK=min(4096, slots * GROUP), num_warps=8)
    best = torch.empty(rows, k, device=device)
    ids = torch.empty(rows, k, dtype=torch.int64, device=device)
    _finish_kernel[(rows,)](scores, chosen, places, best, ids, K=k, SLOTS=slots, GROUP=GROUP, num_warps=4)
    return best, ids, total
