"""Decoding in Triton: one lane a group reads its stream, and its chunks leave through shared memory in whole sectors.

`decode_cuda` waits for the device once, for the verdict; the reading kernel itself sees to it that a damaged message
writes nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.payload import Payload
from kernels.scratch import get, put, scratch_of, spare_words
from kernels.wire.layout import HEADER, Header, check_sums, header_sum, signed
from kernels.wire.triton import ESCAPE, GROUP, PARTIAL_SUMS, SUM_BLOCK, floor_log2, sum_kernel, sum_programs


@triton.jit
def _refill(stream, held, bits, at, end, ahead):
    """Bring every lane to at least 32 bits; zeros come after the end.

    `ahead` (int32) is the word at `at`, asked for one refill early: nothing here waits for the load it issues.
    """
    short = bits < 32
    word = ahead.to(tl.uint32, bitcast=True).to(tl.uint64)
    held = tl.where(short, held | (word << bits.to(tl.uint64)), held)
    bits = tl.where(short, bits + 32, bits)
    at = tl.where(short, at + 1, at)
    ahead = tl.load(stream + at, mask=short & (at < end), other=tl.where(short, 0, ahead))
    return held, bits, at, ahead


@triton.jit
def _lowest_one(held):
    """The lowest set bit of each uint64's low 16, or bit 16, as int32."""
    window = (held & 0xFFFF).to(tl.int32) | 0x10000
    return window & -window


@triton.jit
def _copy_rows(
    scratch,
    target,
    chunk,
    there,
    WORDS: tl.constexpr,
    ROW: tl.constexpr,
    LANES: tl.constexpr,
    SHARED: tl.constexpr,
):
    """The first WORDS of each lane's row to `target`, where `chunk` has its WORDS."""
    word = tl.arange(0, WORDS)[None, :]
    mask = there[:, None] & (word >= 0)
    words = get(scratch, tl.arange(0, LANES)[:, None] * ROW + word, mask, SHARED)
    tl.store(target + chunk[:, None] * WORDS + word, words, mask=mask)


@triton.jit
def _copy_halves(
    scratch,
    target,
    chunk,
    there,
    HALVES: tl.constexpr,
    ROW: tl.constexpr,
    LANES: tl.constexpr,
    SHARED: tl.constexpr,
):
    """`_copy_rows` in units of 16 bits: eight slots' codes may be half a word."""
    half = tl.arange(0, HALVES)[None, :]
    mask = there[:, None] & (half >= 0)
    words = get(scratch, tl.arange(0, LANES)[:, None] * ROW + half // 2, mask, SHARED)
    tl.store(target + chunk[:, None] * HALVES + half, (words >> (half & 1) * 16).to(tl.int16), mask=mask)


@triton.jit
def _read_kernel(
    words,
    starts,
    levels,
    low,
    high,
    codes,
    counts,
    spare,
    sums,
    verdict,
    expected,
    num_words,
    num_chunks,
    num_groups,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
    SUMS: tl.constexpr,
    SHARED: tl.constexpr,
):
    found = tl.sum(tl.load(sums + tl.arange(0, SUMS)))
    total = tl.load(starts + num_groups)
    sound = (found == expected) & (total == num_words)
    if tl.program_id(0) == 0:
        tl.store(verdict, found)
        tl.store(verdict + 1, total)
    group = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    first = tl.load(starts + group, mask=group < num_groups, other=0)
    last = tl.load(starts + group + 1, mask=group < num_groups, other=0)
    stream = words + first
    end = tl.where(sound, last - first, 0).to(tl.int32)
    at = tl.zeros([LANES], tl.int32)
    ahead = tl.load(stream, mask=at < end, other=0)
    # A chunk's bytes are gathered in the scratch, a row a lane, and leave it in whole sectors.
    LOW: tl.constexpr = SLOTS // 4
    HIGH: tl.constexpr = SLOTS // 8
    CODES: tl.constexpr = LOW + HIGH
    ROW: tl.constexpr = (CODES + (SLOTS * BITS + 31) // 32) | 1  # odd: the lanes' rows start in different banks
    UNIT: tl.constexpr = 4 if SHARED else 1
    scratch = scratch_of(spare, SHARED)
    row = tl.arange(0, LANES) * ROW
    everyone = tl.full([LANES], 1, tl.int1)
    held = tl.zeros([LANES], tl.uint64)
    bits = tl.zeros([LANES], tl.int32)
    for member in range(tl.where(sound, GROUP, 0)):
        chunk = group * GROUP + member
        there = chunk < num_chunks
        held, bits, at, ahead = _refill(stream, held, bits, at, end, ahead)
        full = (held & 1) == 1
        count = tl.where(full, SLOTS, tl.minimum(((held >> 1) & 255).to(tl.int32), SLOTS))
        count = tl.where(there, count, 0)
        width = tl.where(full, 1, 9)
        held = held >> width.to(tl.uint64)
        bits -= width
        held, bits, at, ahead = _refill(stream, held, bits, at, end, ahead)
        some = count > 0
        rice = tl.where(some, (held & 7).to(tl.int32), 0)
        level = (held >> 3) & 0xFFFF
        held = tl.where(some, held >> 19, held)
        bits = tl.where(some, bits - 19, bits)
        held, bits, at, ahead = _refill(stream, held, bits, at, end, ahead)
        level = tl.where(some, level | (held & 0xFFFF) << 16, 0)
        held = tl.where(some, held >> 16, held)
        bits = tl.where(some, bits - 16, bits)
        tl.store(levels + chunk, level.to(tl.uint32).to(tl.int32, bitcast=True), mask=there)
        tl.store(counts + chunk, count.to(tl.uint8), mask=there)
        index = tl.full([LANES], -1, tl.int32)
        pending = tl.zeros([LANES], tl.int32)
        for step in range(SLOTS // 8):
            far = tl.zeros([LANES], tl.int32)
            packed = tl.zeros([LANES], tl.int32)
            for half in tl.static_range(2):
                near = tl.zeros([LANES], tl.int32)
                if BITS == 8:
                    packed = tl.zeros([LANES], tl.int32)
                for i in tl.static_range(4):
                    active = step * 8 + half * 4 + i < count
                    held, bits, at, ahead = _refill(stream, held, bits, at, end, ahead)
                    zeros = floor_log2(_lowest_one(held))
                    escaped = zeros >= ESCAPE
                    width = tl.where(escaped, 12, rice)
                    if BITS == 2:  # at most 17 + 12 + 2 bits: the refill has brought them all
                        field = ((held & 0xFFFFFFFF).to(tl.uint32) >> (zeros + 1).to(tl.uint32)).to(tl.int32)
                        taken = zeros + 1 + width + BITS
                    else:
                        held = tl.where(active, held >> (zeros + 1).to(tl.uint64), held)
                        bits = tl.where(active, bits - zeros - 1, bits)
                        held, bits, at, ahead = _refill(stream, held, bits, at, end, ahead)
                        field = (held & 0xFFFFF).to(tl.int32)
                        taken = width + BITS
                    tail = field & ((1 << width) - 1)
                    gap = tl.where(escaped, tail, (zeros << rice) | tail)
                    code = tl.where(active, (field >> width) & ((1 << BITS) - 1), 0)
                    taken = tl.where(active, taken, 0)
                    held = held >> taken.to(tl.uint64)
                    bits -= taken
                    index = (index + gap + 1) & 4095
                    kept = tl.where(active, index, 0)
                    near |= (kept & 255) << (8 * i)
                    far |= (kept >> 8) << (4 * i + 16 * half)
                    packed |= code << (BITS * (i + 4 * half) % 32)
                put(scratch, row + step * 2 + half, near, everyone, SHARED)
                if BITS == 8:
                    put(scratch, row + CODES + step * 2 + half, packed, everyone, SHARED)
            put(scratch, row + LOW + step, far, everyone, SHARED)
            if BITS == 4:
                put(scratch, row + CODES + step, packed, everyone, SHARED)
            elif BITS == 2:
                odd = step & 1
                put(scratch, row + CODES + step // 2, pending * odd | packed << (16 * odd), everyone, SHARED)
                pending = packed
        tl.debug_barrier()
        _copy_rows(scratch, low.to(tl.pointer_type(tl.int32)), chunk, there, LOW, ROW, LANES, SHARED)
        _copy_rows(scratch + LOW * UNIT, high.to(tl.pointer_type(tl.int32)), chunk, there, HIGH, ROW, LANES, SHARED)
        _copy_halves(
            scratch + CODES * UNIT,
            codes.to(tl.pointer_type(tl.int16)),
            chunk,
            there,
            SLOTS * BITS // 16,
            ROW,
            LANES,
            SHARED,
        )
        tl.debug_barrier()


def decode_cuda(message: torch.Tensor, header: Header, packed: bytes, payload: Payload, lanes: int = 32) -> None:
    """The inverse, into `payload`, which stays as it is if the checksum or the table's sum is wrong.

    Raises:
        WireError: it was.
    """
    spec, groups, device = header.spec, header.groups, message.device
    own = header_sum(packed)
    if not groups:
        check_sums(header, own, 0)
        return
    body = message[HEADER.size :]
    words = body[header.table_bytes :].view(torch.int32)
    state = torch.zeros(PARTIAL_SUMS + 2 + groups + 1, dtype=torch.int64, device=device)
    sums, verdict, starts = state.split([PARTIAL_SUMS, 2, groups + 1])
    sizes = torch.empty(groups, dtype=torch.int64, device=device)
    sum_kernel[sum_programs(body.numel() // 4)](
        body.view(torch.int32),
        header.table_bytes // 4,
        header.words,
        sums,
        sizes,
        groups,
        TABLE=True,
        SUMS=PARTIAL_SUMS,
        BLOCK=SUM_BLOCK,
    )
    torch.cumsum(sizes, 0, out=starts[1:])
    _read_kernel[(triton.cdiv(groups, lanes),)](
        words,
        starts,
        payload.levels,
        payload.section(1),
        payload.section(2),
        payload.section(3),
        payload.counts,
        spare_words(triton.cdiv(groups, lanes), device),
        sums,
        verdict,
        signed(header.checksum - own),
        header.words,
        payload.num_chunks,
        groups,
        SLOTS=spec.slots,
        BITS=spec.quantizer.bits,
        LANES=lanes,
        SUMS=PARTIAL_SUMS,
        SHARED=device.type == "cuda",
        num_warps=1,
    )
    found, total = verdict.tolist()
    check_sums(header, (found + own) % 2**64, total)
