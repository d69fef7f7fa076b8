"""`compress` as one Triton kernel: one program a chunk, x in registers as `[words, 32]`, selection by counting.

The residual is written whole (x everywhere), then the selected slots are overwritten in the second-level cache after
a barrier: no 4096-wide scan or scatter. Coding every element in registers instead, to write the residual once, took
4.24 ms where this takes 4.04 (10⁹ elements, one H100). Compaction works on one 32-bit mask word per 32 elements: a
scan over the 128 words' popcounts, then each word writes its few bits' places, one a turn.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.bits import (
    as_float,
    decode,
    log2_of_bit,
    lowest_bits,
    nearest_bf16,
    popcount,
    round_to_int,
    to_e4m3,
)
from kernels.payload import Payload, Quantizer

NUMBER = {Quantizer.INT2: 0, Quantizer.INT4: 1, Quantizer.INT8: 2, Quantizer.FP8: 3}


@triton.jit
def _threshold(key, top, SLOTS: tl.constexpr):
    """(threshold, keys above or at it that are surely in, whether it separates): see `kernels.compress.cpu`."""
    low = top * 0
    high = top + 1
    above = top * 0
    middle = tl.maximum(top - 16777216, 1)
    width = 33554432
    separated = top == 0
    threshold = top * 0 + 1
    taken = top * 0
    while (high - low > 1) & (separated == 0):
        count = tl.sum((key >= middle).to(tl.int32))
        done = (count == SLOTS) | ((count < SLOTS) & (middle == 1))
        threshold = middle
        taken = count
        separated = done
        more = count > SLOTS
        low = tl.where(more, middle, low)
        above = tl.where(more, above, count)
        high = tl.where(more, high, middle)
        middle = tl.where(low > 0, low + (high - low) // 2, tl.maximum(high - width, 1))
        width = tl.minimum(width * 2, 1073741824)
    threshold = tl.where(separated, threshold, low)
    taken = tl.where(separated, taken, above)
    return threshold, taken, separated


@triton.jit
def _add_three(a0, a1, a2, b0, b1, b2):
    return a0 + b0, a1 + b1, a2 + b2


@triton.jit
def _fit(magnitude, used, count, smallest, largest, middle, QUANTIZER: tl.constexpr):
    """The chunk's levels word (int32 scalar); `magnitude` [SLOTS] is zero where `used` is false."""
    if QUANTIZER == 0:
        # Sums are taken in units of the largest magnitude's power of two: no overflow near the end of fp32.
        exponent = tl.minimum(tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 1), 253)
        scaled = magnitude * as_float((254 - exponent) << 23)
        unit = as_float(exponent << 23)
        upper = (magnitude >= middle) & used
        number_upper, sum_upper, sum_lower = tl.reduce(
            (upper.to(tl.int32), tl.where(upper, scaled, 0.0), tl.where(upper, 0.0, scaled)), 0, _add_three
        )
        number_lower = count - number_upper
        mean_upper = sum_upper / tl.maximum(number_upper, 1).to(tl.float32) * unit
        mean_lower = sum_lower / tl.maximum(number_lower, 1).to(tl.float32) * unit
        mean_lower = tl.where(number_lower > 0, mean_lower, mean_upper)
        return nearest_bf16(mean_lower) | nearest_bf16(mean_upper) << 16
    elif QUANTIZER == 3:
        return (tl.maximum(largest.to(tl.int32, bitcast=True) >> 23, 8) - 7) << 7
    else:
        low = smallest.to(tl.int32, bitcast=True) >> 16
        steps: tl.constexpr = 7.0 if QUANTIZER == 1 else 127.0
        step = ((largest - as_float(low << 16)) / steps).to(tl.int32, bitcast=True) >> 16
        return low | step << 16


@triton.jit
def _encode(value, magnitude, middle, word, QUANTIZER: tl.constexpr):
    """Codes (int32) of values [SLOTS]."""
    negative = (value < 0).to(tl.int32)
    if QUANTIZER == 0:
        return negative | (magnitude >= middle).to(tl.int32) << 1
    elif QUANTIZER == 3:
        inverse = as_float((254 << 23) - (word << 16))
        return to_e4m3(magnitude * inverse) | negative << 7
    else:
        low = as_float(word << 16)
        step = as_float(word & -65536)
        top: tl.constexpr = 7.0 if QUANTIZER == 1 else 127.0
        ratio = tl.where(step > 0, (magnitude - low) / tl.where(step > 0, step, 1.0), 0.0)
        return negative | round_to_int(tl.minimum(tl.maximum(ratio, 0.0), top)) << 1


@triton.jit
def _compress_kernel(
    gradient,
    residual,
    buffer,
    places,
    nonfinite,
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
):
    chunk = tl.program_id(0).to(tl.int64) + first_chunk
    base = chunk * CHUNK
    WORDS: tl.constexpr = CHUNK // 32
    offset = tl.arange(0, WORDS)[:, None] * 32 + tl.arange(0, 32)[None, :]
    if TAIL:
        inside = offset < (num_elements - base).to(tl.int32)
        x = tl.load(gradient + base + offset, mask=inside, other=0.0).to(tl.float32)
        old = tl.load(residual + base + offset, mask=inside, other=0.0)
    else:
        x = tl.load(gradient + base + offset).to(tl.float32)
        old = tl.load(residual + base + offset)
    x += old
    key = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    top = tl.max(key)
    if top >= 0x7F800000:
        bad = key >= 0x7F800000
        tl.atomic_add(nonfinite, tl.sum(bad.to(tl.int64)))
        x = tl.where(bad, tl.where((old.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >= 0x7F800000, 0.0, old), x)
        key = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        top = tl.max(key)

    if TAIL:
        tl.store(residual + base + offset, x, mask=inside)
    else:
        tl.store(residual + base + offset, x)
    threshold, taken, separated = _threshold(key, top, SLOTS)
    bit = (tl.full([32], 1, tl.uint32) << tl.arange(0, 32).to(tl.uint32))[None, :]
    if separated:
        mask = tl.sum(tl.where(key >= threshold, bit, 0), 1)
    else:
        equal = tl.sum(tl.where(key == threshold, bit, 0), 1)
        each = popcount(equal)
        room = SLOTS - taken - (tl.cumsum(each, 0) - each)
        mask = tl.sum(tl.where(key > threshold, bit, 0), 1) | lowest_bits(equal, room)

    # The gather moves the words to one a thread; as the reduction leaves them each is held eight times over.
    mask = tl.gather(mask.to(tl.int32, bitcast=True), tl.arange(0, WORDS), 0).to(tl.uint32, bitcast=True)
    each = popcount(mask)
    place = tl.cumsum(each, 0) - each
    first = tl.arange(0, WORDS) * 32
    for _ in range(tl.max(each)):
        lowest = mask & (~mask + 1)
        tl.store(places + chunk * SLOTS + place, (first + log2_of_bit(lowest)).to(tl.int16), mask=mask != 0)
        mask = mask ^ lowest
        place += 1
    count = tl.where(separated, taken, SLOTS)
    slot = tl.arange(0, SLOTS)
    used = slot < count
    tl.debug_barrier()
    index = tl.load(places + chunk * SLOTS + slot, mask=used, other=0).to(tl.int32)
    value = tl.load(residual + base + index, mask=used, other=0.0)
    magnitude = tl.abs(value)
    largest = as_float(top)
    smallest = tl.min(tl.where(used, magnitude, largest))
    middle = smallest * 0.5 + largest * 0.5
    word = _fit(magnitude, used, count, smallest, largest, middle, QUANTIZER)
    word = tl.where(count > 0, word, 0)
    code = tl.where(used, _encode(value, magnitude, middle, word, QUANTIZER), 0)
    tl.store(residual + base + index, value - decode(code, word, QUANTIZER), mask=used)

    tl.store(buffer.to(tl.pointer_type(tl.int32)) + chunk, word)
    tl.store(buffer + low_at + chunk * SLOTS + slot, (index & 255).to(tl.uint8))
    # One reduction packs four slots: their high nibbles in 16 bits, and above them 8, 16 or 32 bits of codes.
    quarter = (tl.arange(0, 4) * 4)[None, :]
    packed = tl.reshape(((index >> 8) | code << 16).to(tl.int64), [SLOTS // 4, 4])
    packed = tl.sum((packed & 15) << quarter | (packed >> 16) << (16 + tl.arange(0, 4) * BITS)[None, :], 1)
    fourth = chunk * (SLOTS // 4) + tl.arange(0, SLOTS // 4)
    tl.store((buffer + high_at).to(tl.pointer_type(tl.int16)) + fourth, packed.to(tl.int16))
    if BITS == 2:
        tl.store(buffer + codes_at + fourth, (packed >> 16).to(tl.uint8))
    elif BITS == 4:
        tl.store((buffer + codes_at).to(tl.pointer_type(tl.int16)) + fourth, (packed >> 16).to(tl.int16))
    else:
        tl.store((buffer + codes_at).to(tl.pointer_type(tl.int32)) + fourth, (packed >> 16).to(tl.int32))
    tl.store(buffer + counts_at + chunk, count.to(tl.uint8))


def compress_cuda(gradient: torch.Tensor, residual: torch.Tensor, payload: Payload, num_warps: int = 4) -> torch.Tensor:
    """Launch over whole chunks, then over the tail; returns the non-finite count, int64 scalar on the device."""
    spec, total = payload.spec, gradient.numel()
    nonfinite = torch.zeros((), dtype=torch.int64, device=gradient.device)
    places = torch.empty(payload.num_chunks * spec.slots, dtype=torch.int16, device=gradient.device)
    whole = total // spec.chunk
    offsets = payload.spec.offsets(payload.num_chunks)
    for first, number, tail in ((0, whole, False), (whole, payload.num_chunks - whole, True)):
        if number:
            _compress_kernel[(number,)](
                gradient,
                residual,
                payload.buffer,
                places,
                nonfinite,
                total,
                first,
                *offsets[1:5],
                CHUNK=spec.chunk,
                SLOTS=spec.slots,
                BITS=spec.quantizer.bits,
                QUANTIZER=NUMBER[spec.quantizer],
                TAIL=tail,
                num_warps=num_warps,
                enable_fp_fusion=False,
            )
    return nonfinite
