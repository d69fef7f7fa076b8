"""`decompress_accumulate` in Triton: one program a chunk, payload by payload, so that the order of addition is theirs.

Overwriting sums in a chunk of shared memory and writes it out once. Accumulating adds where `out` lies, in the
second-level cache: it must read and write most of the sectors anyway. Two payloads may hold one index, so a barrier
stands between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.bits import decode
from kernels.compress.triton import NUMBER
from kernels.payload import Payload
from kernels.scratch import get, get_all, put, put_all, scratch_of, spare_words


@triton.jit
def load_slots(
    buffers,
    first,
    num_payloads,
    chunk,
    low_at,
    high_at,
    codes_at,
    counts_at,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    QUANTIZER: tl.constexpr,
    WAYS: tl.constexpr,
):
    """(index int32, fp32 value, used, payload number), each [WAYS · SLOTS]: one chunk of WAYS payloads from `first` on.

    All loads are independent of one another, so that they wait for memory together.
    """
    lane = tl.arange(0, WAYS * SLOTS)
    number = first + lane // SLOTS
    slot = lane % SLOTS
    there = number < num_payloads
    buffer = tl.load(buffers + number, mask=there, other=0).to(tl.pointer_type(tl.uint8))
    used = there & (slot < tl.load(buffer + counts_at + chunk, mask=there, other=0).to(tl.int32))
    index = tl.load(buffer + low_at + chunk * SLOTS + slot, mask=there, other=0).to(tl.int32)
    nibbles = tl.load(buffer + high_at + chunk * (SLOTS // 2) + slot // 2, mask=there, other=0).to(tl.int32)
    index |= ((nibbles >> ((slot & 1) * 4)) & 15) << 8
    PER_BYTE: tl.constexpr = 8 // BITS
    packed = tl.load(buffer + codes_at + chunk * (SLOTS // PER_BYTE) + slot // PER_BYTE, mask=there, other=0).to(
        tl.int32
    )
    code = (packed >> ((slot % PER_BYTE) * BITS)) & ((1 << BITS) - 1)
    word = tl.load(buffer.to(tl.pointer_type(tl.int32)) + chunk, mask=there, other=0)
    return index, decode(code, word, QUANTIZER), used, number


@triton.jit
def add_payloads(
    target,
    buffers,
    weights,
    num_payloads,
    chunk,
    low_at,
    high_at,
    codes_at,
    counts_at,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    QUANTIZER: tl.constexpr,
    WAYS: tl.constexpr,
):
    """target[index] += weight · value, payload after payload, in memory."""
    for first in range(0, num_payloads, WAYS):
        index, value, used, number = load_slots(
            buffers, first, num_payloads, chunk, low_at, high_at, codes_at, counts_at, SLOTS, BITS, QUANTIZER, WAYS
        )
        addend = value * tl.load(weights + number, mask=number < num_payloads, other=0.0)
        for way in range(WAYS):
            mine = used & (number == first + way)
            total = tl.load(target + index, mask=mine, other=0.0) + addend
            tl.store(target + index, total, mask=mine)
            tl.debug_barrier()


@triton.jit
def sum_payloads(
    scratch,
    buffers,
    weights,
    num_payloads,
    chunk,
    low_at,
    high_at,
    codes_at,
    counts_at,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    QUANTIZER: tl.constexpr,
    WAYS: tl.constexpr,
    HELD_TWICE: tl.constexpr,
    SHARED: tl.constexpr,
):
    """Σ weight · decoded of one chunk, fp32 [CHUNK], through the scratch.

    HELD_TWICE: the program has more threads than WAYS · SLOTS, so several hold one slot.
    """
    put_all(scratch, tl.zeros([CHUNK], tl.int32), CHUNK, SHARED)
    tl.debug_barrier()
    for first in range(0, num_payloads, WAYS):
        index, value, used, number = load_slots(
            buffers, first, num_payloads, chunk, low_at, high_at, codes_at, counts_at, SLOTS, BITS, QUANTIZER, WAYS
        )
        addend = value * tl.load(weights + number, mask=number < num_payloads, other=0.0)
        for way in range(WAYS):
            mine = used & (number == first + way)
            total = get(scratch, index, mine, SHARED).to(tl.float32, bitcast=True) + addend
            if HELD_TWICE:
                tl.debug_barrier()
            put(scratch, index, total.to(tl.int32, bitcast=True), mine, SHARED)
            tl.debug_barrier()
    return get_all(scratch, CHUNK, SHARED).to(tl.float32, bitcast=True)


@triton.jit
def _accumulate_kernel(
    out,
    buffers,
    weights,
    num_payloads,
    low_at,
    high_at,
    codes_at,
    counts_at,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    QUANTIZER: tl.constexpr,
    WAYS: tl.constexpr,
):
    chunk = tl.program_id(0).to(tl.int64)
    add_payloads(
        out + chunk * CHUNK,
        buffers,
        weights,
        num_payloads,
        chunk,
        low_at,
        high_at,
        codes_at,
        counts_at,
        SLOTS,
        BITS,
        QUANTIZER,
        WAYS,
    )


@triton.jit
def _overwrite_kernel(
    out,
    spare,
    buffers,
    weights,
    num_payloads,
    num_elements,
    first_chunk,
    low_at,
    high_at,
    codes_at,
    counts_at,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    QUANTIZER: tl.constexpr,
    TAIL: tl.constexpr,
    WAYS: tl.constexpr,
    HELD_TWICE: tl.constexpr,
    SHARED: tl.constexpr,
):
    chunk = tl.program_id(0).to(tl.int64) + first_chunk
    scratch = scratch_of(spare, SHARED)
    total = sum_payloads(
        scratch,
        buffers,
        weights,
        num_payloads,
        chunk,
        low_at,
        high_at,
        codes_at,
        counts_at,
        CHUNK,
        SLOTS,
        BITS,
        QUANTIZER,
        WAYS,
        HELD_TWICE,
        SHARED,
    )
    offset = tl.arange(0, CHUNK)
    if TAIL:
        tl.store(out + chunk * CHUNK + offset, total, mask=offset < (num_elements - chunk * CHUNK).to(tl.int32))
    else:
        tl.store(out + chunk * CHUNK + offset, total)


def ways(num_payloads: int) -> int:
    """Payloads a program loads at once: a power of two up to 8."""
    return min(8, triton.next_power_of_2(num_payloads))


def pointer_table(payloads: Sequence[Payload]) -> torch.Tensor:
    """`[W]` int64 addresses of the payloads' buffers, on their device."""
    device = payloads[0].buffer.device
    table = torch.tensor([payload.buffer.data_ptr() for payload in payloads], dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def decompress_accumulate_cuda(
    payloads: Sequence[Payload], weights: torch.Tensor, out: torch.Tensor, *, accumulate: bool, num_warps: int = 8
) -> None:
    """Launch over all chunks (accumulating), or over whole chunks and then the tail."""
    spec, chunks, many = payloads[0].spec, payloads[0].num_chunks, ways(len(payloads))
    whole = out.numel() // spec.chunk
    sections = spec.offsets(chunks)[1:5]
    table = pointer_table(payloads)
    options = {
        "CHUNK": spec.chunk,
        "SLOTS": spec.slots,
        "BITS": spec.quantizer.bits,
        "QUANTIZER": NUMBER[spec.quantizer],
        "WAYS": many,
        "num_warps": num_warps,
        "enable_fp_fusion": False,
    }
    if accumulate:
        if chunks:
            _accumulate_kernel[(chunks,)](out, table, weights, len(payloads), *sections, **options)
        return
    for first, number, tail in ((0, whole, False), (whole, chunks - whole, True)):
        if number:
            _overwrite_kernel[(number,)](
                out,
                spare_words(number, out.device),
                table,
                weights,
                len(payloads),
                out.numel(),
                first,
                *sections,
                **options,
                TAIL=tail,
                HELD_TWICE=many * spec.slots < 32 * num_warps,
                SHARED=out.device.type == "cuda",
            )
