"""The wire format in Triton: one lane a group. Sizes first (wide), then each lane writes or reads its own stream.

A lane keeps a 64-bit accumulator. 10⁹ elements make 30,518 streams of 512 symbols: enough lanes that the card's
latency, not a serial tail, sets the time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.payload import Payload
from kernels.wire.layout import GROUP as GROUP_SIZE

ESCAPE = tl.constexpr(16)
GROUP = tl.constexpr(GROUP_SIZE)


@triton.jit
def _log2(value):
    """⌊log2 value⌋ of 1 ≤ value < 2²⁴, int32: the exponent of the float."""
    return (value.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def _rice(last, count):
    mean = ((last + 1 - count) * 177) // (256 * tl.maximum(count, 1))
    return _log2(tl.minimum(tl.maximum(mean, 1), 255))


@triton.jit
def _index(low, high, chunk, slot, mask, SLOTS: tl.constexpr):
    near = tl.load(low + chunk * SLOTS + slot, mask=mask, other=0).to(tl.int32)
    nibbles = tl.load(high + chunk * (SLOTS // 2) + slot // 2, mask=mask, other=0).to(tl.int32)
    return near | ((nibbles >> ((slot & 1) * 4)) & 15) << 8


@triton.jit
def _measure_kernel(low, high, counts, sizes, num_chunks, SLOTS: tl.constexpr, BITS: tl.constexpr):
    """Words of one group: all its chunks' slots at once."""
    group = tl.program_id(0).to(tl.int64)
    chunk = group * GROUP + tl.arange(0, GROUP)
    there = chunk < num_chunks
    count = tl.load(counts + chunk, mask=there, other=0).to(tl.int32)
    last = _index(low, high, chunk, tl.maximum(count - 1, 0), there, SLOTS)
    rice = _rice(last, count)
    slot = tl.arange(0, SLOTS)[None, :] + tl.zeros([GROUP, SLOTS], tl.int32)
    used = there[:, None] & (slot < count[:, None])
    index = _index(low, high, chunk[:, None], slot, used, SLOTS)
    before = _index(low, high, chunk[:, None], tl.maximum(slot - 1, 0), used & (slot > 0), SLOTS)
    before = tl.where(slot > 0, before, -1)
    quotient = (index - before - 1) >> rice[:, None]
    bits = tl.where(quotient < ESCAPE, quotient + rice[:, None], ESCAPE + 12) + (1 + BITS)
    total = tl.sum(tl.where(used, bits, 0), 1)
    head = tl.where(count == SLOTS, 1, 9) + tl.where(count > 0, 35, 0)
    tl.store(sizes + group, (tl.sum(total + tl.where(there, head, 0)) + 31) // 32)


@triton.jit
def _load_four(low, high, codes, chunk, four, mask, SLOTS: tl.constexpr, BITS: tl.constexpr):
    """Slots 4 · four … + 3 of each lane's chunk: low bytes (int32), high nibbles and codes, packed as stored."""
    at = chunk * (SLOTS // 4) + four
    near = tl.load(low.to(tl.pointer_type(tl.int32)) + at, mask=mask, other=0)
    far = tl.load(high.to(tl.pointer_type(tl.int16)) + at, mask=mask, other=0).to(tl.int32)
    if BITS == 2:
        code = tl.load(codes + at, mask=mask, other=0).to(tl.int32)
    elif BITS == 4:
        code = tl.load(codes.to(tl.pointer_type(tl.int16)) + at, mask=mask, other=0).to(tl.int32)
    else:
        code = tl.load(codes.to(tl.pointer_type(tl.int32)) + at, mask=mask, other=0)
    return near, far, code


@triton.jit
def _put(words, held, bits, at, value, width, active):
    """Append `width` ≤ 31 bits of `value` (uint64, clean above) in each active lane."""
    held = tl.where(active, held | (value << bits.to(tl.uint64)), held)
    bits = tl.where(active, bits + width, bits)
    full = bits >= 32
    tl.store(words + at, (held & 0xFFFFFFFF).to(tl.uint32), mask=full)
    at = tl.where(full, at + 1, at)
    held = tl.where(full, held >> 32, held)
    bits = tl.where(full, bits - 32, bits)
    return held, bits, at


@triton.jit
def _write_kernel(
    levels,
    low,
    high,
    codes,
    counts,
    starts,
    words,
    num_chunks,
    num_groups,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    at = tl.load(starts + group, mask=group < num_groups, other=0)
    held = tl.zeros([LANES], tl.uint64)
    bits = tl.zeros([LANES], tl.int32)
    for member in range(GROUP):
        chunk = group * GROUP + member
        there = chunk < num_chunks
        count = tl.load(counts + chunk, mask=there, other=0).to(tl.int32)
        head = tl.where(count == SLOTS, 1, count << 1)
        held, bits, at = _put(words, held, bits, at, head.to(tl.uint64), tl.where(count == SLOTS, 1, 9), there)
        rice = _rice(_index(low, high, chunk, tl.maximum(count - 1, 0), there, SLOTS), count)
        level = tl.load(levels + chunk, mask=there, other=0).to(tl.uint32, bitcast=True).to(tl.uint64)
        some = there & (count > 0)
        held, bits, at = _put(words, held, bits, at, (level & 0xFFFF) << 3 | rice.to(tl.uint64), 19, some)
        held, bits, at = _put(words, held, bits, at, level >> 16, 16, some)
        before = tl.full([LANES], -1, tl.int32)
        for four in range((tl.max(count) + 3) // 4):
            near, far, packed = _load_four(low, high, codes, chunk, four, four * 4 < count, SLOTS, BITS)
            for i in tl.static_range(4):
                active = four * 4 + i < count
                index = ((near >> (8 * i)) & 255) | ((far >> (4 * i)) & 15) << 8
                code = (packed >> (BITS * i)) & ((1 << BITS) - 1)
                gap = index - before - 1
                before = tl.where(active, index, before)
                quotient = gap >> rice
                escaped = quotient >= ESCAPE
                zeros = tl.where(escaped, ESCAPE, quotient)
                width = tl.where(escaped, 12, rice)
                rest = tl.where(escaped, gap, gap & ((1 << rice) - 1)) | code << width
                one = tl.full([LANES], 1, tl.uint64) << zeros.to(tl.uint64)
                held, bits, at = _put(words, held, bits, at, one, zeros + 1, active)
                held, bits, at = _put(words, held, bits, at, rest.to(tl.uint64), width + BITS, active)
    tl.store(words + at, (held & 0xFFFFFFFF).to(tl.uint32), mask=bits > 0)


@triton.jit
def _refill(words, held, bits, at, end):
    """Bring every lane to at least 32 bits; zeros come after the end."""
    short = bits < 32
    word = tl.load(words + at, mask=short & (at < end), other=0).to(tl.uint32, bitcast=True).to(tl.uint64)
    held = tl.where(short, held | (word << bits.to(tl.uint64)), held)
    at = tl.where(short, at + 1, at)
    bits = tl.where(short, bits + 32, bits)
    return held, bits, at


@triton.jit
def _read_kernel(
    words,
    starts,
    levels,
    low,
    high,
    codes,
    counts,
    num_chunks,
    num_groups,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    at = tl.load(starts + group, mask=group < num_groups, other=0)
    end = tl.load(starts + group + 1, mask=group < num_groups, other=0)
    held = tl.zeros([LANES], tl.uint64)
    bits = tl.zeros([LANES], tl.int32)
    for member in range(GROUP):
        chunk = group * GROUP + member
        there = chunk < num_chunks
        held, bits, at = _refill(words, held, bits, at, end)
        full = (held & 1) == 1
        count = tl.where(full, SLOTS, tl.minimum(((held >> 1) & 255).to(tl.int32), SLOTS))
        count = tl.where(there, count, 0)
        width = tl.where(full, 1, 9)
        held = held >> width.to(tl.uint64)
        bits -= width
        held, bits, at = _refill(words, held, bits, at, end)
        some = count > 0
        rice = tl.where(some, (held & 7).to(tl.int32), 0)
        level = (held >> 3) & 0xFFFF
        held = tl.where(some, held >> 19, held)
        bits = tl.where(some, bits - 19, bits)
        held, bits, at = _refill(words, held, bits, at, end)
        level = tl.where(some, level | (held & 0xFFFF) << 16, 0)
        held = tl.where(some, held >> 16, held)
        bits = tl.where(some, bits - 16, bits)
        tl.store(levels + chunk, level.to(tl.uint32).to(tl.int32, bitcast=True), mask=there)
        tl.store(counts + chunk, count.to(tl.uint8), mask=there)
        index = tl.full([LANES], -1, tl.int32)
        for four in range(SLOTS // 4):
            near = tl.zeros([LANES], tl.int32)
            far = tl.zeros([LANES], tl.int32)
            packed = tl.zeros([LANES], tl.int32)
            for i in tl.static_range(4):
                active = four * 4 + i < count
                held, bits, at = _refill(words, held, bits, at, end)
                window = (held & 0x1FFFF).to(tl.int32) | 0x10000
                zeros = _log2(window & -window)
                held = tl.where(active, held >> (zeros + 1).to(tl.uint64), held)
                bits = tl.where(active, bits - zeros - 1, bits)
                held, bits, at = _refill(words, held, bits, at, end)
                escaped = zeros >= ESCAPE
                width = tl.where(escaped, 12, rice)
                field = (held & 0xFFFFF).to(tl.int32)
                tail = field & ((1 << width) - 1)
                gap = tl.where(escaped, tail, (zeros << rice) | tail)
                code = tl.where(active, (field >> width) & ((1 << BITS) - 1), 0)
                held = tl.where(active, held >> (width + BITS).to(tl.uint64), held)
                bits = tl.where(active, bits - width - BITS, bits)
                index = (index + gap + 1) & 4095
                kept = tl.where(active, index, 0)
                near |= (kept & 255) << (8 * i)
                far |= (kept >> 8) << (4 * i)
                packed |= code << (BITS * i)
            place = chunk * (SLOTS // 4) + four
            tl.store(low.to(tl.pointer_type(tl.int32)) + place, near, mask=there)
            tl.store(high.to(tl.pointer_type(tl.int16)) + place, far.to(tl.int16), mask=there)
            if BITS == 2:
                tl.store(codes + place, packed.to(tl.uint8), mask=there)
            elif BITS == 4:
                tl.store(codes.to(tl.pointer_type(tl.int16)) + place, packed.to(tl.int16), mask=there)
            else:
                tl.store(codes.to(tl.pointer_type(tl.int32)) + place, packed, mask=there)


def measure_cuda(payload: Payload) -> torch.Tensor:
    """`[G]` int32: 32-bit words of each group."""
    groups = triton.cdiv(payload.num_chunks, GROUP_SIZE)
    sizes = torch.empty(groups, dtype=torch.int32, device=payload.buffer.device)
    if groups:
        _measure_kernel[(groups,)](
            payload.section(1),
            payload.section(2),
            payload.counts,
            sizes,
            payload.num_chunks,
            SLOTS=payload.spec.slots,
            BITS=payload.spec.quantizer.bits,
            num_warps=4,
        )
    return sizes


def write_cuda(payload: Payload, starts: torch.Tensor, words: torch.Tensor, lanes: int = 32) -> None:
    """The streams into `words` int32, group g from `starts[g]` (int64 [G + 1]) on."""
    groups = starts.numel() - 1
    if groups:
        _write_kernel[(triton.cdiv(groups, lanes),)](
            payload.levels,
            payload.section(1),
            payload.section(2),
            payload.section(3),
            payload.counts,
            starts,
            words,
            payload.num_chunks,
            groups,
            SLOTS=payload.spec.slots,
            BITS=payload.spec.quantizer.bits,
            LANES=lanes,
            num_warps=1,
        )


def read_cuda(words: torch.Tensor, starts: torch.Tensor, payload: Payload, lanes: int = 32) -> None:
    """The inverse of `write_cuda`, into `payload`."""
    groups = starts.numel() - 1
    if groups:
        _read_kernel[(triton.cdiv(groups, lanes),)](
            words,
            starts,
            payload.levels,
            payload.section(1),
            payload.section(2),
            payload.section(3),
            payload.counts,
            payload.num_chunks,
            groups,
            SLOTS=payload.spec.slots,
            BITS=payload.spec.quantizer.bits,
            LANES=lanes,
            num_warps=1,
        )
