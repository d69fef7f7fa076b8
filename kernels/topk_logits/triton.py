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
def _total_kernel(tops, sums, totals, num_tiles, BLOCK: tl.constexpr):
    """log Σ exp of each row from its tiles' largest logits and sums."""
    row = tl.program_id(0).to(tl.int64)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    weight = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_tiles, BLOCK):
        tile = start + tl.arange(0, BLOCK)
        top = tl.load(tops + row * num_tiles + tile, mask=tile < num_tiles, other=float("-inf"))
        part = tl.load(sums + row * num_tiles + tile, mask=tile < num_tiles, other=0.0)
        higher = tl.maximum(best, top)
        safe = tl.where(higher == float("-inf"), 0.0, higher)
        weight = weight * tl.exp(best - safe) + part * tl.exp(top - safe)
        best = higher
    top = tl.max(best)
    tl.store(totals + row, top + tl.log(tl.sum(weight * tl.exp(best - top))))


@triton.jit
def _kth(key, K: tl.constexpr):
    """The K-th largest of ordered keys (int32, in registers), or the smallest above −∞ where fewer are: a scalar."""
    high = tl.max(key).to(tl.int64) + 1
    floor = high * 0 - 2139095040
    low = floor
    probed = tl.max(key) * 0
    width = high * 0 + 8388608
    going = high > low
    while going:
        middle = tl.where(probed != 0, low + (high - low) // 2, tl.maximum(high - width, floor))
        count = tl.sum((key >= middle.to(tl.int32)).to(tl.int32))
        enough = count >= K
        probed = tl.where(enough, 1, probed)
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle)
        width = width * 2
        going = (high - low > 1) & (count != K) & (high > floor)
    return low.to(tl.int32)


@triton.jit
def _count(values, number, threshold, BLOCK: tl.constexpr):
    """How many of the first `number` fp32 at `values` have an ordered key of at least `threshold`."""
    many = tl.zeros([BLOCK], tl.int32)
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        key = _order(tl.load(values + at, mask=at < number, other=float("-inf")))
        many += ((key >= threshold) & (at < number)).to(tl.int32)
    return tl.sum(many)


@triton.jit
def _select_kernel(
    values, listed, chosen, number, K: tl.constexpr, SLOTS: tl.constexpr, LIST: tl.constexpr, BLOCK: tl.constexpr
):
    """The K largest of each row of `values` [B, number], ties to the smaller place: their places, ascending.

    `chosen` int32 [B, SLOTS] ends in −1 where fewer than K are above −∞. The K-th largest of the BLOCK lanes' maxima
    is a lower bound t of the K-th largest value; what reaches t is listed (`listed` int32 [B, LIST]), seldom much
    more than K, and the K-th largest of the list is then exact. Should the list not hold it, t is raised by bisection
    over `values` until at most LIST reach it or only ties remain.
    """
    row = tl.program_id(0).to(tl.int64)
    values += row * number
    chosen += row * SLOTS
    listed += row * LIST
    top = tl.full([BLOCK], -2147483648, tl.int32)
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        top = tl.maximum(top, _order(tl.load(values + at, mask=at < number, other=float("-inf"))))
    low = _kth(top, K).to(tl.int64)
    high = tl.max(top).to(tl.int64) + 1
    above = tl.max(top) * 0
    count = _count(values, number, low.to(tl.int32), BLOCK)
    while (count > LIST) & (high - low > 1):
        middle = low + (high - low) // 2
        reach = _count(values, number, middle.to(tl.int32), BLOCK)
        enough = reach >= K
        low = tl.where(enough, middle, low)
        count = tl.where(enough, reach, count)
        high = tl.where(enough, high, middle)
        above = tl.where(enough, above, reach)
    bound = low.to(tl.int32)
    ties = tl.where(count > LIST, K - above, 2147483647)
    tl.store(listed + tl.arange(0, LIST), tl.full([LIST], -1, tl.int32))
    tl.store(chosen + tl.arange(0, SLOTS), tl.full([SLOTS], -1, tl.int32))
    tl.debug_barrier()
    written = above * 0
    seen = above * 0
    for start in range(0, number, BLOCK):
        at = start + tl.arange(0, BLOCK)
        key = _order(tl.load(values + at, mask=at < number, other=float("-inf")))
        inside = (at < number) & (key >= tl.maximum(bound, -2139095040))
        equal = (inside & (key == bound)).to(tl.int32)
        take = inside & ((key > bound) | (seen + tl.cumsum(equal, 0) - equal < ties))
        place = written + tl.cumsum(take.to(tl.int32), 0) - 1
        tl.store(listed + place, at, mask=take & (place < LIST))
        written += tl.sum(take.to(tl.int32))
        seen += tl.sum(equal)
    tl.debug_barrier()
    at = tl.load(listed + tl.arange(0, LIST))
    key = _order(tl.load(values + at, mask=at >= 0, other=float("-inf")))
    bound = _kth(key, K)
    room = K - tl.sum(((at >= 0) & (key > bound)).to(tl.int32))
    equal = ((at >= 0) & (key == bound)).to(tl.int32)
    take = (at >= 0) & ((key > bound) | ((equal != 0) & (tl.cumsum(equal, 0) <= room)))
    place = tl.cumsum(take.to(tl.int32), 0) - 1
    tl.store(chosen + place, at, mask=take)


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


def _select(values: torch.Tensor, k: int, slots: int, num_warps: int) -> torch.Tensor:
    rows, number = values.shape
    room = max(256, 4 * slots)
    listed = torch.empty(rows, room, dtype=torch.int32, device=values.device)
    chosen = torch.empty(rows, slots, dtype=torch.int32, device=values.device)
    block = max(triton.next_power_of_2(k), min(8192, triton.next_power_of_2(number)))
    _select_kernel[(rows,)](
        values, listed, chosen, number, K=k, SLOTS=slots, LIST=room, BLOCK=block, num_warps=num_warps
    )
    return chosen


def topk_logits_cuda(
    hidden: torch.Tensor,
    items: torch.Tensor,
    k: int,
    exclude: torch.Tensor | None,
    tile: int = 128,
    depth: int = 128,
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
    total = torch.empty(rows, device=device)
    _total_kernel[(rows,)](partial[0], partial[1], total, tiles, BLOCK=1024, num_warps=8)
    slots = triton.next_power_of_2(k)
    chosen = _select(maxima, k, slots, 16)
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
    places = _select(scores, k, slots, 8)
    best = torch.empty(rows, k, device=device)
    ids = torch.empty(rows, k, dtype=torch.int64, device=device)
    _finish_kernel[(rows,)](scores, chosen, places, best, ids, K=k, SLOTS=slots, GROUP=GROUP, num_warps=4)
    return best, ids, total
