"""`compress` on a CPU: numba, one chunk in the first-level cache at a time, all cores.

A chunk's threshold is found by bisection: how many magnitudes reach a probe (vectorised, 16 lanes), about a dozen
times; then one pass of compares and move-masks lists the indices.
"""

# numba types these loops; a variable changes between Python and numpy integers as it pleases.
# mypy: disable-error-code="assignment, operator"

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.jit import counting, inline, lanes_at_least, lowest_bit, parallel, prange

INT2, INT4, INT8, FP8 = 0, 1, 2, 3
"""Quantizers by number, as both compiled back-ends know them."""

_INFINITY = np.int32(0x7F800000)
_TWO_OCTAVES = 1 << 24


@counting
def _count_at_least(magnitudes: Any, threshold: Any) -> Any:
    """How many of `magnitudes` [m] fp32 reach `threshold` fp32, as fp32."""
    count = np.float32(0)
    for i in range(magnitudes.size):
        count += np.float32(1) if magnitudes[i] >= threshold else np.float32(0)
    return count


@inline
def _max_key(keys: Any) -> Any:
    top = np.int32(0)
    for i in range(keys.size):
        top = max(top, keys[i])
    return top


@inline
def _threshold(keys: Any, top: Any, slots: Any, enough: Any, probe: Any) -> Any:
    """(threshold, how many keys equal to it to take): the k-th largest key, or 1 where fewer are non-zero.

    Widens downwards from `top` by 2, 4, 8, … octaves until `slots` are above, then bisects; ends early at a probe
    that `slots` to `enough` keys reach. `probe` is fp32[1] scratch: non-negative floats compare as their patterns.
    """
    magnitudes, probe_key = keys.view(np.float32), probe.view(np.int32)
    low, high, above, width = np.int64(0), np.int64(top) + 1, 0, _TWO_OCTAVES
    while high - low > 1:
        middle = low + (high - low) // 2 if low else max(high - width, 1)
        width = min(2 * width, 1 << 30)
        probe_key[0] = middle
        count = np.int64(_count_at_least(magnitudes, probe[0]))
        if slots <= count <= enough or (count < slots and middle == 1):
            return middle, count
        if count > slots:
            low = middle
        else:
            high, above = middle, count
    return low, slots - above


@inline
def _list_at_least(keys: Any, threshold: Any, ties: Any, listed: Any) -> Any:
    """List, ascending, the indices of `keys` above `threshold` and of the first `ties` equal to it."""
    count = 0
    for group in range(keys.size // 64):
        lanes = lanes_at_least(keys.ctypes.data + 256 * group, np.int32(threshold))
        while lanes:
            i = 64 * group + lowest_bit(lanes)
            lanes &= lanes - np.uint64(1)
            if keys[i] > threshold or ties > 0:
                listed[count] = i
                count += 1
                ties -= keys[i] == threshold
    return count


@inline
def select(keys: Any, top: Any, slots: Any, probe: Any, listed: Any) -> Any:
    """List, ascending, the indices of the `slots` largest non-zero `keys`, ties to the smaller; returns how many.

    `keys` [m] int32, m a multiple of 64, `top` the largest of them, `probe` fp32[1] scratch, `listed` int32[2 slots].
    Twice as many as wanted are listed first: the last bits of the threshold are then found among those.
    """
    if top == 0:
        return 0
    threshold, ties = _threshold(keys, top, slots, 2 * slots, probe)
    count = _list_at_least(keys, threshold, ties, listed)
    if count <= slots:
        return count
    near = np.empty(count, np.int32)
    for j in range(count):
        near[j] = keys[listed[j]]
    threshold, ties = _threshold(near, top, slots, slots, probe)
    kept = 0
    for j in range(count):
        listed[kept] = listed[j]
        if near[j] > threshold or (near[j] == threshold and ties > 0):
            kept += 1
            ties -= near[j] == threshold
    return kept


@inline
def _nearest_bf16(pattern: Any) -> Any:
    return min((np.int64(pattern) + 0x8000) >> 16, 0x7F7F)


@inline
def _fit_two_levels(values: Any, smallest: Any, largest: Any, bits: Any, real: Any) -> Any:
    """Levels word of INT2: the mean magnitude either side of the middle of the range, as bf16."""
    middle = smallest * np.float32(0.5) + largest * np.float32(0.5)
    sum_upper, sum_lower, upper = 0.0, 0.0, 0
    for j in range(values.size):
        magnitude = abs(values[j])
        if magnitude >= middle:
            sum_upper += magnitude
            upper += 1
        else:
            sum_lower += magnitude
    if upper == values.size:
        sum_lower, lower = sum_upper, upper
    else:
        lower = values.size - upper
    real[0] = np.float32(sum_lower / lower)
    word = _nearest_bf16(bits[0])
    real[0] = np.float32(sum_upper / upper)
    return word | _nearest_bf16(bits[0]) << 16


@inline
def fit_levels(values: Any, quantizer: Any, bits: Any, real: Any) -> Any:
    """The levels word for `values` [m ≥ 1]; `bits` int32[1] and `real` fp32[1] share memory, as scratch."""
    smallest, largest = abs(values[0]), abs(values[0])
    for j in range(values.size):
        smallest, largest = min(smallest, abs(values[j])), max(largest, abs(values[j]))
    if quantizer == INT2:
        return _fit_two_levels(values, smallest, largest, bits, real)
    real[0] = largest
    if quantizer == FP8:
        return (max(np.int64(bits[0]) >> 23, 8) - 7) << 7
    real[0] = smallest
    low = np.int64(bits[0]) >> 16
    bits[0] = low << 16
    top = np.float32(7) if quantizer == INT4 else np.float32(127)
    real[0] = (largest - real[0]) / top
    return low | (np.int64(bits[0]) >> 16) << 16


@inline
def _to_e4m3(scaled: Any, bits: Any, real: Any) -> Any:
    """Nearest (ties to even) e4m3 code of 0 ≤ scaled < 256, at most 240."""
    if scaled < np.float32(0.015625):
        return np.int64(np.rint(scaled * np.float32(512)))
    real[0] = scaled
    pattern = np.int64(bits[0])
    return min(((pattern + 0x7FFFF + ((pattern >> 20) & 1)) >> 20) - (120 << 3), 0x77)


@inline
def encode(value: Any, middle: Any, low: Any, high: Any, quantizer: Any, bits: Any, real: Any) -> Any:
    """The code of one value. INT2 splits at `middle`; `low` and `high` are the levels (FP8: low is 1 / scale)."""
    magnitude = abs(value)
    negative = np.int64(value < 0)
    if quantizer == INT2:
        return negative | np.int64(magnitude >= middle) << 1
    if quantizer == FP8:
        return _to_e4m3(magnitude * low, bits, real) | negative << 7
    top = 7 if quantizer == INT4 else 127
    number = 0
    if high > 0:
        number = min(np.int64(np.rint(np.float64(magnitude - low) / np.float64(high))), top)
    return negative | number << 1


@inline
def decode(code: Any, low: Any, high: Any, quantizer: Any, bits: Any, real: Any) -> Any:
    """The fp32 value of a code; `low` and `high` are the two levels. Bit-equal on every back-end."""
    if quantizer == FP8:
        number = code & 127
        if number < 8:
            magnitude = np.float32(number) * np.float32(0.001953125)
        else:
            bits[0] = (number << 20) + (120 << 23)
            magnitude = real[0]
        return (-magnitude if code & 128 else magnitude) * low
    number = code >> 1
    magnitude = (high if number else low) if quantizer == INT2 else low + np.float32(number) * high
    return -magnitude if code & 1 else magnitude


@inline
def encode_levels(word: Any, quantizer: Any, bits: Any, real: Any) -> Any:
    """(low, high) for `encode`: the levels, or 1 / scale for FP8."""
    low, high = split_levels(word, bits, real)
    if quantizer == FP8:
        low = np.float32(1) / low
    return low, high


@inline
def split_levels(word: Any, bits: Any, real: Any) -> Any:
    """The two bf16 levels of a levels word, as fp32."""
    bits[0] = np.int32(word << 16)
    low = real[0]
    bits[0] = np.int32(word & ~0xFFFF)
    return low, real[0]


@inline
def _write_slots(
    values: Any,
    listed: Any,
    word: Any,
    quantizer: Any,
    low: Any,
    high: Any,
    codes: Any,
    residual: Any,
    bits: Any,
    real: Any,
) -> None:
    """Code `values` [m], pack them with their indices, and leave x − sent in `residual` (the chunk's)."""
    low[:] = 0
    high[:] = 0
    codes[:] = 0
    width = 2 if quantizer == INT2 else 4 if quantizer == INT4 else 8
    per_byte = 8 // width
    level_low, level_high = split_levels(word, bits, real)
    inverse = np.float32(1) / level_low if quantizer == FP8 else level_low
    smallest, largest = abs(values[0]), abs(values[0])
    for j in range(values.size):
        smallest, largest = min(smallest, abs(values[j])), max(largest, abs(values[j]))
    middle = smallest * np.float32(0.5) + largest * np.float32(0.5)
    for j in range(values.size):
        index = listed[j]
        code = encode(values[j], middle, inverse, level_high, quantizer, bits, real)
        low[j] = index & 255
        high[j >> 1] |= (index >> 8) << ((j & 1) * 4)
        codes[j // per_byte] |= code << ((j % per_byte) * width)
        residual[index] = values[j] - decode(code, level_low, level_high, quantizer, bits, real)


@inline
def _compress_chunk(
    keys: Any, top: Any, residual: Any, slots: Any, quantizer: Any, low: Any, high: Any, codes: Any
) -> Any:
    """Select, code and pack one chunk whose x stands in `residual`, and take what is sent from it.

    `keys` has the magnitudes' patterns, zero-padded to a multiple of 64. Returns (levels word, count).
    """
    real = np.empty(1, np.float32)
    listed = np.empty(2 * slots, np.int32)
    count = select(keys, top, slots, real, listed)
    if count == 0:
        low[:] = 0
        high[:] = 0
        codes[:] = 0
        return 0, 0
    values = np.empty(count, np.float32)
    for j in range(count):
        values[j] = residual[listed[j]]
    bits = real.view(np.int32)
    word = fit_levels(values, quantizer, bits, real)
    _write_slots(values, listed, word, quantizer, low, high, codes, residual, bits, real)
    return word, count


@inline
def _clean(x: Any, old_residual: Any) -> Any:
    """Replace what is not finite in `x` by the residual alone (or zero); returns how many."""
    bad = 0
    for i in range(x.size):
        if not np.isfinite(x[i]):
            bad += 1
            x[i] = old_residual[i] if np.isfinite(old_residual[i]) else np.float32(0)
    return bad


@inline
def _finish(x: Any, residual: Any, slots: Any, quantizer: Any, low: Any, high: Any, codes: Any) -> Any:
    """From x = gradient + residual to payload and residual; returns (levels word, count, non-finite)."""
    magnitudes = np.zeros(-(-x.size // 64) * 64, np.float32)
    keys = magnitudes.view(np.int32)
    for i in range(x.size):
        magnitudes[i] = abs(x[i])
    top = _max_key(keys)
    bad = 0
    if top >= _INFINITY:
        bad = _clean(x, residual)
        for i in range(x.size):
            magnitudes[i] = abs(x[i])
        top = _max_key(keys)
    for i in range(x.size):
        residual[i] = x[i]
    word, count = _compress_chunk(keys, top, residual, slots, quantizer, low, high, codes)
    return word, count, bad


@parallel
def compress_fp32(
    gradient: Any,
    residual: Any,
    chunk: Any,
    slots: Any,
    quantizer: Any,
    levels: Any,
    low: Any,
    high: Any,
    codes: Any,
    counts: Any,
    nonfinite: Any,
) -> None:
    """Compress `gradient` [n] fp32 into the payload's sections; `residual` [n] fp32 is replaced."""
    for c in prange(counts.size):
        start = np.int64(c) * chunk
        stop = min(start + chunk, gradient.size)
        mine, left = gradient[start:stop], residual[start:stop]
        x = np.empty(mine.size, np.float32)
        for i in range(mine.size):
            x[i] = mine[i] + left[i]
        levels[c], counts[c], nonfinite[c] = _finish(x, left, slots, quantizer, low[c], high[c], codes[c])


@parallel
def compress_bf16(
    gradient: Any,
    residual: Any,
    chunk: Any,
    slots: Any,
    quantizer: Any,
    levels: Any,
    low: Any,
    high: Any,
    codes: Any,
    counts: Any,
    nonfinite: Any,
) -> None:
    """`compress_fp32` for a gradient [n] of bf16 patterns (uint16)."""
    for c in prange(counts.size):
        start = np.int64(c) * chunk
        stop = min(start + chunk, gradient.size)
        mine, left = gradient[start:stop], residual[start:stop]
        x = np.empty(mine.size, np.float32)
        patterns = x.view(np.uint32)
        for i in range(mine.size):
            patterns[i] = np.uint32(mine[i]) << np.uint32(16)
        for i in range(mine.size):
            x[i] += left[i]
        levels[c], counts[c], nonfinite[c] = _finish(x, left, slots, quantizer, low[c], high[c], codes[c])
