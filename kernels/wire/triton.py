"""Encoding in Triton: one lane a group. Sizes first (wide), then each lane writes its own stream.

A lane keeps a 64-bit accumulator. 10⁹ elements make 30,518 streams of 512 symbols: enough lanes that the card's
latency, not a serial tail, sets the time. Sizes, offsets, checksum and header stay on the device: `encode_cuda` waits
for it once, for the message's length.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.delta.triton import coefficient
from kernels.payload import Payload
from kernels.wire.layout import GROUP as GROUP_SIZE
from kernels.wire.layout import HEADER, HEADER_FACTORS, Header, header_sum, most_words, signed

PARTIAL_SUMS = 64
"""Checksum words that programs add to, so that they do not all wait for one."""
SUM_BLOCK = 1024
ESCAPE = tl.constexpr(16)
GROUP = tl.constexpr(GROUP_SIZE)
THIRD = tl.constexpr(signed(HEADER_FACTORS[2]))


@triton.jit
def floor_log2(value):
    """⌊log2 value⌋ of 1 ≤ value < 2²⁴, int32: the exponent of the float."""
    return (value.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127


@triton.jit
def _rice(last, count):
    mean = ((last + 1 - count) * 177) // (256 * tl.maximum(count, 1))
    return floor_log2(tl.minimum(tl.maximum(mean, 1), 255))


@triton.jit
def _index(low, high, chunk, slot, mask, SLOTS: tl.constexpr):
    near = tl.load(low + chunk * SLOTS + slot, mask=mask, other=0).to(tl.int32)
    nibbles = tl.load(high + chunk * (SLOTS // 2) + slot // 2, mask=mask, other=0).to(tl.int32)
    return near | ((nibbles >> ((slot & 1) * 4)) & 15) << 8


@triton.jit
def _measure_kernel(
    low,
    high,
    counts,
    table,
    sizes,
    starts,
    sums,
    num_chunks,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    SUMS: tl.constexpr,
):
    """Words of one group: all its chunks' slots at once. The first program clears what later launches add to."""
    group = tl.program_id(0).to(tl.int64)
    if group == 0:
        tl.store(starts, 0)
        tl.store(sums + tl.arange(0, SUMS), tl.zeros([SUMS], tl.int64))
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
    size = (tl.sum(total + tl.where(there, head, 0)) + 31) // 32
    tl.store(sizes + group, size)
    tl.store(table + group, size.to(tl.int16))
    if (group + 1 == tl.num_programs(0)) & (group % 2 == 0):
        tl.store(table + group + 1, 0)


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
        near, far, packed = _load_four(low, high, codes, chunk, 0, some, SLOTS, BITS)
        for four in range((tl.max(count) + 3) // 4):
            # Asked for one turn early, so that a turn does not begin by waiting for memory.
            next_near, next_far, next_packed = _load_four(
                low, high, codes, chunk, four + 1, four * 4 + 4 < count, SLOTS, BITS
            )
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
                if BITS == 2:  # at most 17 + 12 + 2 bits: one put holds them
                    both = one | rest.to(tl.uint64) << (zeros + 1).to(tl.uint64)
                    held, bits, at = _put(words, held, bits, at, both, zeros + 1 + width + BITS, active)
                else:
                    held, bits, at = _put(words, held, bits, at, one, zeros + 1, active)
                    held, bits, at = _put(words, held, bits, at, rest.to(tl.uint64), width + BITS, active)
            near, far, packed = next_near, next_far, next_packed
    tl.store(words + at, (held & 0xFFFFFFFF).to(tl.uint32), mask=bits > 0)


@triton.jit
def sum_kernel(
    body,
    table_words,
    num_words,
    sums,
    sizes,
    num_groups,
    TABLE: tl.constexpr,
    SUMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Σ coefficient(i) · word i over the table and the words after it.

    TABLE: their number is given, and the table's sizes are wanted too; else `num_words` points to it.
    """
    number = num_words if TABLE else tl.load(num_words)
    count = tl.zeros([], tl.int64) + table_words + number
    total = tl.zeros([BLOCK], tl.int64)
    for start in range(tl.program_id(0) * BLOCK, count, tl.num_programs(0) * BLOCK):
        element = start + tl.arange(0, BLOCK).to(tl.int64)
        word = tl.load(body + element, mask=element < count, other=0).to(tl.int64) & 0xFFFFFFFF
        total += coefficient(element) * word
        if TABLE:  # noqa: SIM102 - the outer one is settled when compiling
            if start < table_words:
                group = element * 2
                tl.store(sizes + group, word & 0xFFFF, mask=group < num_groups)
                tl.store(sizes + group + 1, word >> 16, mask=group + 1 < num_groups)
    tl.atomic_add(sums + tl.program_id(0) % SUMS, tl.sum(total), sem="relaxed")


@triton.jit
def _header_kernel(header, starts, sums, num_groups, known, first, second, SUMS: tl.constexpr):
    """The header's four 64-bit words; `known` is the header's sum but for its third word, which has the length."""
    third = tl.zeros([], tl.int64) + num_groups | tl.load(starts + num_groups) << 32
    checksum = tl.sum(tl.load(sums + tl.arange(0, SUMS))) + (known ^ third * THIRD)
    tl.store(header, first)
    tl.store(header + 1, second)
    tl.store(header + 2, third)
    tl.store(header + 3, checksum)


def sum_programs(words: int) -> tuple[int]:
    """The grid of `sum_kernel` over so many words."""
    return (max(1, min(1056, triton.cdiv(words, SUM_BLOCK))),)


def encode_cuda(payload: Payload, lanes: int = 32, measure_warps: int = 2) -> torch.Tensor:
    """The whole message; a view of as much memory as the longest such message would need."""
    spec, device = payload.spec, payload.buffer.device
    header = Header(spec, payload.num_elements, 0, 0)
    packed, groups, bound = header.pack(), header.groups, most_words(spec, payload.num_chunks)
    if not groups:
        packed = Header(spec, 0, 0, header_sum(packed)).pack()
        return torch.frombuffer(bytearray(packed), dtype=torch.uint8).to(device)
    message = torch.empty(HEADER.size + header.table_bytes + 4 * bound, dtype=torch.uint8, device=device)
    body = message[HEADER.size :]
    words = body[header.table_bytes :].view(torch.int32)
    state = torch.empty(PARTIAL_SUMS + groups + 1, dtype=torch.int64, device=device)
    sums, starts = state[:PARTIAL_SUMS], state[PARTIAL_SUMS:]
    sizes = torch.empty(groups, dtype=torch.int64, device=device)
    sections = (payload.section(1), payload.section(2))
    table = body[: header.table_bytes].view(torch.int16)
    _measure_kernel[(groups,)](
        *sections,
        payload.counts,
        table,
        sizes,
        starts,
        sums,
        payload.num_chunks,
        SLOTS=spec.slots,
        BITS=spec.quantizer.bits,
        SUMS=PARTIAL_SUMS,
        num_warps=measure_warps,
    )
    torch.cumsum(sizes, 0, out=starts[1:])
    _write_kernel[(triton.cdiv(groups, lanes),)](
        payload.levels,
        *sections,
        payload.section(3),
        payload.counts,
        starts,
        words,
        payload.num_chunks,
        groups,
        SLOTS=spec.slots,
        BITS=spec.quantizer.bits,
        LANES=lanes,
        num_warps=1,
    )
    sum_kernel[sum_programs(header.table_bytes // 4 + bound)](
        body.view(torch.int32),
        header.table_bytes // 4,
        starts[groups:],
        sums,
        sizes,
        groups,
        TABLE=False,
        SUMS=PARTIAL_SUMS,
        BLOCK=SUM_BLOCK,
    )
    first, second = (int.from_bytes(packed[at : at + 8], "little") for at in (0, 8))
    known = header_sum(packed[:16] + bytes(8))
    numbers = (signed(known), signed(first), second)
    _header_kernel[(1,)](
        message[: HEADER.size].view(torch.int64), starts, sums, groups, *numbers, SUMS=PARTIAL_SUMS, num_warps=2
    )
    total = int(starts[groups])
    return message[: Header(spec, payload.num_elements, total, 0).size]
