"""Triton helpers on bit patterns: popcount, select, bf16 and e4m3 rounding. Plain integer operations throughout.

The interpreter knows no inline assembly, and these run on a handful of registers a program, so shifts and masks do.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def popcount(word):
    """Set bits of each uint32, as int32."""
    word = word - ((word >> 1) & 0x55555555)
    word = (word & 0x33333333) + ((word >> 2) & 0x33333333)
    word = (word + (word >> 4)) & 0x0F0F0F0F
    word = word + (word >> 8)
    return ((word + (word >> 16)) & 0x3F).to(tl.int32)


@triton.jit
def log2_of_bit(bit):
    """Position of the one set bit of each uint32 (0 for none), int32: the exponent of the float."""
    exponent = ((bit.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 0xFF) - 127
    return tl.maximum(exponent, 0)


@triton.jit
def _halve(word, rank, position, HALF: tl.constexpr):
    """One step of `select_bit`: go to the upper half where the lower has too few bits."""
    below = popcount(word & ((1 << HALF) - 1))
    up = rank >= below
    return tl.where(up, word >> HALF, word), tl.where(up, rank - below, rank), tl.where(up, position + HALF, position)


@triton.jit
def select_bit(word, rank):
    """Position of the set bit number `rank` (from 0, lowest first) of each uint32."""
    position = tl.zeros_like(rank)
    word, rank, position = _halve(word, rank, position, 16)
    word, rank, position = _halve(word, rank, position, 8)
    word, rank, position = _halve(word, rank, position, 4)
    word, rank, position = _halve(word, rank, position, 2)
    word, rank, position = _halve(word, rank, position, 1)
    return position


@triton.jit
def lowest_bits(word, number):
    """Each uint32 with only its `number` (int32, 0 to 32) lowest set bits kept."""
    kept = tl.minimum(tl.maximum(number, 0), popcount(word))
    end = select_bit(word, tl.maximum(kept - 1, 0)).to(tl.uint32)
    ones = tl.full(word.shape, 0xFFFFFFFF, tl.uint32)
    return tl.where(kept > 0, word & (ones >> (31 - end)), tl.zeros_like(word))


@triton.jit
def nearest_bf16(value):
    """bf16 patterns (int32 below 2¹⁵) of finite values ≥ 0, rounded to nearest and never to infinity."""
    return tl.minimum((value.to(tl.int32, bitcast=True).to(tl.uint32, bitcast=True) + 0x8000) >> 16, 0x7F7F).to(
        tl.int32
    )


@triton.jit
def as_float(pattern):
    """fp32 of an int32 pattern."""
    return pattern.to(tl.float32, bitcast=True)


@triton.jit
def to_e4m3(scaled):
    """Nearest (ties to even) e4m3 code, int32, of 0 ≤ scaled < 256, at most 240."""
    pattern = scaled.to(tl.int32, bitcast=True)
    normal = tl.minimum(((pattern + 0x7FFFF + ((pattern >> 20) & 1)) >> 20) - 960, 0x77)
    # Adding 2²³ rounds to the nearest integer, ties to even, in the mantissa's low bits.
    subnormal = (scaled * 512.0 + 8388608.0).to(tl.int32, bitcast=True) & 0xFF
    return tl.where(scaled < 0.015625, subnormal, normal)


@triton.jit
def from_e4m3(code):
    """fp32 of a signless e4m3 code (int32 0 to 126)."""
    normal = as_float((code << 20) + (120 << 23))
    return tl.where(code < 8, code.to(tl.float32) * 0.001953125, normal)


@triton.jit
def round_to_int(value):
    """Nearest integer, ties to even, as int32, of 0 ≤ value < 2²²."""
    return (value + 8388608.0).to(tl.int32, bitcast=True) & 0x7FFFFF


@triton.jit
def decode(code, word, QUANTIZER: tl.constexpr):
    """fp32 values of codes (int32) under a levels word (int32, broadcasts). QUANTIZER: 0 to 3, int2 int4 int8 fp8."""
    low = as_float(word << 16)
    if QUANTIZER == 3:
        magnitude = from_e4m3(code & 127) * low
        return tl.where((code & 128) != 0, -magnitude, magnitude)
    else:
        high = as_float(word & -65536)
        number = code >> 1
        if QUANTIZER == 0:  # noqa: SIM108
            magnitude = tl.where(number != 0, high, low)
        else:
            magnitude = low + number.to(tl.float32) * high
        return tl.where((code & 1) != 0, -magnitude, magnitude)
