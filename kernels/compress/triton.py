"""`compress` as one Triton kernel: one program a chunk, x in registers as `[words, 32]`, selection by counting.

x goes to shared memory, the selected slots are replaced there, and the residual is written from it once, at the end: no
4096-wide scan or scatter, no partial write in the second-level cache. Compaction works on one 32-bit mask word per 32
elements: a scan over the 128 words' popcounts, then each word writes its few bits' places, one a turn.
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
from kernels.scratch import get, get_all, put, put_all, scratch_of, spare_words

NUMBER = {Quantizer.INT2: 0, Quantizer.INT4: 1, Quantizer.INT8: 2, Quantizer.FP8: 3}


@triton.jit
def _threshold(key, top, SLOTS: tl.constexpr):
    """(threshold, keys above or at it that are surely in, whether it separates): see `kernels.compress.cpu`."""
    low = top * 0
    high = top + 1
    above = top * 0
    middle = tl.maximum(top - 8388608, 1)
    width = 16777216
    separated = top == 0
    threshold = top * 0 + 1
    taken = top * 0
    while (high - low > 1) & (separated == 0):
        # The sign of the difference, shifted down and added: two instructions an element where a compare takes three.
        count = key.shape[0] - tl.sum(((key - middle).to(tl.uint32, bitcast=True) >> 31).to(tl.int32))
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
def _swizzled(turn, WORDS: tl.constexpr):
    """(place in its 32 elements, index) of each word's element of this turn: 32 lanes, 32 banks."""
    word = tl.arange(0, WORDS)
    place = (word + turn) & 31
    return place, word * 32 + place


@triton.jit
def _keep_finite(scratch, residual, nonfinite, left, CHUNK: tl.constexpr, SHARED: tl.constexpr):
    """Where x is not finite, the residual alone (0 where that is not finite either), counted.

    A turn a word's element: rare, and in the registers of the usual path.
    """
    everywhere = tl.full([CHUNK // 32], 1, tl.int1)
    for turn in range(32):
        _, index = _swizzled(turn, CHUNK // 32)
        bad = (get(scratch, index, everywhere, SHARED) & 0x7FFFFFFF) >= 0x7F800000
        # A word is held by several threads: all must have read it before one replaces it.
        tl.debug_barrier()
        old = tl.load(residual + index, mask=bad & (index < left), other=0.0).to(tl.int32, bitcast=True)
        put(scratch, index, tl.where((old & 0x7FFFFFFF) >= 0x7F800000, 0, old), bad, SHARED)
        tl.atomic_add(nonfinite, tl.sum(bad.to(tl.int64)))


@triton.jit
def _masks(scratch, threshold, CHUNK: tl.constexpr, SHARED: tl.constexpr):
    """uint32 words [CHUNK / 32], one bit an element: keys above the threshold, and equal to it."""
    everywhere = tl.full([CHUNK // 32], 1, tl.int1)
    above = tl.zeros([CHUNK // 32], tl.uint32)
    equal = tl.zeros([CHUNK // 32], tl.uint32)
    for turn in range(32):
        place, index = _swizzled(turn, CHUNK // 32)
        key = get(scratch, index, everywhere, SHARED) & 0x7FFFFFFF
        above |= (key > threshold).to(tl.uint32) << place.to(tl.uint32)
        equal |= (key == threshold).to(tl.uint32) << place.to(tl.uint32)
    return above, equal


@triton.jit
def _compress_kernel(
    gradient,
    residual,
    buffer,
    spare,
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
    SHARED: tl.constexpr,
):
    chunk = tl.program_id(0).to(tl.int64) + first_chunk
    base = chunk * CHUNK
    left = (num_elements - base).to(tl.int32)
    offset = tl.arange(0, CHUNK)
    inside = offset < left if TAIL else None
    # Four elements a thread of both: at eight of a bf16 gradient, a residual would be read in strides of 32 bytes.
    x = tl.load(gradient + tl.max_contiguous(base + tl.arange(0, CHUNK), 4), mask=inside, other=0.0 if TAIL else None)
    x = x.to(tl.float32) + tl.load(residual + base + offset, mask=inside, other=0.0 if TAIL else None)
    key = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    top = tl.max(key)
    scratch = scratch_of(spare, SHARED)
    put_all(scratch, x.to(tl.int32, bitcast=True), CHUNK, SHARED)
    tl.debug_barrier()
    if top >= 0x7F800000:
        _keep_finite(scratch, residual + base, nonfinite, left, CHUNK, SHARED)
        tl.debug_barrier()
        key = get_all(scratch, CHUNK, SHARED) & 0x7FFFFFFF
        top = tl.max(key)

    threshold, taken, separated = _threshold(key, top, SLOTS)
    if separated:
        bit = (tl.full([32], 1, tl.uint32) << tl.arange(0, 32).to(tl.uint32))[None, :]
        mask = tl.sum(tl.where(tl.reshape(key, [CHUNK // 32, 32]) >= threshold, bit, 0), 1)
        # The gather moves the words to one a thread; as the reduction leaves them each is held eight times over.
        mask = tl.gather(mask.to(tl.int32, bitcast=True), tl.arange(0, CHUNK // 32), 0).to(tl.uint32, bitcast=True)
    else:
        above, equal = _masks(scratch, threshold, CHUNK, SHARED)
        each = popcount(equal)
        mask = above | lowest_bits(equal, SLOTS - taken - (tl.cumsum(each, 0) - each))
    each = popcount(mask)
    place = tl.cumsum(each, 0) - each
    first = tl.arange(0, CHUNK // 32) * 32
    for _ in range(tl.max(each)):
        lowest = mask & (~mask + 1)
        put(scratch, CHUNK + place, first + log2_of_bit(lowest), mask != 0, SHARED)
        mask = mask ^ lowest
        place += 1
    count = tl.where(separated, taken, SLOTS)
    slot = tl.arange(0, SLOTS)
    used = slot < count
    tl.debug_barrier()
    index = get(scratch, CHUNK + slot, used, SHARED)
    value = as_float(get(scratch, index, used, SHARED))
    magnitude = tl.abs(value)
    largest = as_float(top)
    smallest = tl.min(tl.where(used, magnitude, largest))
    middle = smallest * 0.5 + largest * 0.5
    word = _fit(magnitude, used, count, smallest, largest, middle, QUANTIZER)
    word = tl.where(count > 0, word, 0)
    code = tl.where(used, _encode(value, magnitude, middle, word, QUANTIZER), 0)
    # A slot is held by several threads, and all must have read its value before one replaces it.
    tl.debug_barrier()
    put(scratch, index, (value - decode(code, word, QUANTIZER)).to(tl.int32, bitcast=True), used, SHARED)

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

    tl.debug_barrier()
    tl.store(residual + base + offset, as_float(get_all(scratch, CHUNK, SHARED)), mask=inside)


def compress_cuda(gradient: torch.Tensor, residual: torch.Tensor, payload: Payload, num_warps: int = 4) -> torch.Tensor:
    """Launch over whole chunks, then over the tail; returns the non-finite count, int64 scalar on the device."""
    spec, total = payload.spec, gradient.numel()
    nonfinite = torch.zeros((), dtype=torch.int64, device=gradient.device)
    whole = total // spec.chunk
    offsets = payload.spec.offsets(payload.num_chunks)
    for first, number, tail in ((0, whole, False), (whole, payload.num_chunks - whole, True)):
        if number:
            _compress_kernel[(number,)](
                gradient,
                residual,
                payload.buffer,
                spare_words(number, gradient.device),
                nonfinite,
                total,
                first,
                *offsets[1:5],
                CHUNK=spec.chunk,
                SLOTS=spec.slots,
                BITS=spec.quantizer.bits,
                QUANTIZER=NUMBER[spec.quantizer],
                TAIL=tail,
                SHARED=gradient.device.type == "cuda",
                num_warps=num_warps,
                maxnreg=80,  # six programs a multiprocessor instead of five
                enable_fp_fusion=False,
            )
    return nonfinite
