"""`decompress_accumulate` in Triton: one program a chunk, payload by payload into the second-level cache.

Overwriting first fills the chunk with zeros; every payload's slots are then read, added and written back, with a
barrier between payloads because two of them may hold one index. The order of addition is the payloads' order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.bits import decode
from kernels.compress.triton import NUMBER
from kernels.payload import Payload


@triton.jit
def load_slots(
    buffer, chunk, low_at, high_at, codes_at, counts_at, SLOTS: tl.constexpr, BITS: tl.constexpr, QUANTIZER: tl.constexpr
):
    """(index [SLOTS] int32, fp32 value [SLOTS], used [SLOTS]) of one chunk of the payload at `buffer`."""
    slot = tl.arange(0, SLOTS)
    used = slot < tl.load(buffer + counts_at + chunk).to(tl.int32)
    index = tl.load(buffer + low_at + chunk * SLOTS + slot).to(tl.int32)
    nibbles = tl.load(buffer + high_at + chunk * (SLOTS // 2) + slot // 2).to(tl.int32)
    index |= ((nibbles >> ((slot & 1) * 4)) & 15) << 8
    PER_BYTE: tl.constexpr = 8 // BITS
    packed = tl.load(buffer + codes_at + chunk * (SLOTS // PER_BYTE) + slot // PER_BYTE).to(tl.int32)
    code = (packed >> ((slot % PER_BYTE) * BITS)) & ((1 << BITS) - 1)
    word = tl.load(buffer.to(tl.pointer_type(tl.int32)) + chunk)
    return index, decode(code, word, QUANTIZER), used


@triton.jit
def _accumulate_kernel(
    out,
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
    OVERWRITE: tl.constexpr,
    TAIL: tl.constexpr,
):
    chunk = tl.program_id(0).to(tl.int64) + first_chunk
    target = out + chunk * CHUNK
    if OVERWRITE:
        offset = tl.arange(0, CHUNK)
        zeros = tl.zeros([CHUNK], tl.float32)
        if TAIL:
            tl.store(target + offset, zeros, mask=offset < (num_elements - chunk * CHUNK).to(tl.int32))
        else:
            tl.store(target + offset, zeros)
        tl.debug_barrier()
    for number in range(num_payloads):
        buffer = tl.load(buffers + number).to(tl.pointer_type(tl.uint8))
        index, value, used = load_slots(buffer, chunk, low_at, high_at, codes_at, counts_at, SLOTS, BITS, QUANTIZER)
        addend = value * tl.load(weights + number)
        total = tl.load(target + index, mask=used, other=0.0) + addend
        tl.store(target + index, total, mask=used)
        tl.debug_barrier()


def pointer_table(payloads: Sequence[Payload]) -> torch.Tensor:
    """`[W]` int64 addresses of the payloads' buffers, on their device."""
    device = payloads[0].buffer.device
    table = torch.tensor([payload.buffer.data_ptr() for payload in payloads], dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def decompress_accumulate_cuda(
    payloads: Sequence[Payload], weights: torch.Tensor, out: torch.Tensor, *, accumulate: bool, num_warps: int = 2
) -> None:
    """Launch over whole chunks, then over the tail."""
    spec, chunks = payloads[0].spec, payloads[0].num_chunks
    whole = out.numel() // spec.chunk
    offsets = spec.offsets(chunks)
    table = pointer_table(payloads)
    for first, number, tail in ((0, whole, False), (whole, chunks - whole, True)):
        if number:
            _accumulate_kernel[(number,)](
                out,
                table,
                weights,
                len(payloads),
                out.numel(),
                first,
                *offsets[1:5],
                CHUNK=spec.chunk,
                SLOTS=spec.slots,
                BITS=spec.quantizer.bits,
                QUANTIZER=NUMBER[spec.quantizer],
                OVERWRITE=not accumulate,
                TAIL=tail,
                num_warps=num_warps,
                enable_fp_fusion=False,
            )
