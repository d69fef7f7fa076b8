"""`compress` on a CPU: numba, one chunk in the first-level cache at a time, all cores.

One pass adds the gradient to the residual and compares every magnitude with a guess of the threshold, the one that did
for the chunk before. Where between `slots` and some twice as many reach it, these are listed and the exact threshold is
found among them; elsewhere bisection finds it: how many magnitudes reach a probe, about a dozen times.
"""

# numba types these loops; a variable changes between Python and numpy integers as it pleases.
# mypy: disable-error-code="assignment, operator"

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.jit import (
    add_bf16_lanes,
    add_fp32_lanes,
    count_bits,
    counting,
    inline,
    lanes_at_least,
    lowest_bit,
    parallel,
    prange,
)

INT2, INT4, INT8, FP8 = 0, 1, 2, 3
"""Quantizers by number, as both compiled back-ends know them."""

_INFINITY = np.int32(0x7F800000)
_TWO_OCTAVES = 1 << 24
SPAN = 16
"""Chunks a turn of the parallel loop: the first of them has no guess."""


@counting
def _count_at_least(values: Any, threshold: Any) -> Any:
    """How many magnitudes of `values` [m] fp32 reach `threshold` fp32, as fp32."""
    count = np.float32(0)
    for i in range(values.size):
        count += np.float32(1) if abs(values[i]) >= threshold else np.float32(0)
    return count


@inline
def _max_key(values: Any) -> Any:
    """The largest magnitude's pattern, int32, of `values` [m] fp32."""
    keys, top = values.view(np.int32), np.int32(0)
    for i in range(keys.size):
        top = max(top, keys[i] & np.int32(0x7FFFFFFF))
    return top


@inline
def _threshold(values: Any, low: Any, top: Any, slots: Any, enough: Any, probe: Any) -> Any:
    """(threshold, how many keys equal to it to take): the k-th largest key, or 1 where fewer are non-zero.

    A key is a magnitude's pattern. More than `slots` are known to reach `low` where that is not 0, and `top` is the
    largest. Without `low` it widens downwards from `top` by 2, 4, 8, … octaves until `slots` are above. Then it
    bisects, and ends early at a probe that `slots` to `enough` keys reach. `probe` is fp32[1] scratch: magnitudes
    compare as their patterns.
    """
    probe_key = probe.view(np.int32)
    low, high, above, width = np.int64(low), np.int64(top) + 1, 0, _TWO_OCTAVES
    while high - low > 1:
        middle = low + (high - low) // 2 if low else max(high - width, 1)
        width = min(2 * width, 1 << 30)
        probe_key[0] = middle
        count = np.int64(_count_at_least(values, probe[0]))
        if slots <= count <= enough or (count < slots and middle == 1):
            return middle, count
        if count > slots:
            low = middle
        else:
            high, above = middle, count
    return low, slots - above


@inline
def _list_lanes(lanes: Any, listed: Any) -> None:
    """List, ascending, the numbers of the bits set in `lanes` uint64 [m]."""
    count = 0
    for group in range(lanes.size):
        word = lanes[group]
        while word:
            listed[count] = 64 * group + lowest_bit(word)
            count += 1
            word &= word - np.uint64(1)


@inline
def _list_at_least(values: Any, threshold: Any, ties: Any, listed: Any) -> Any:
    """List, ascending, the indices of magnitudes above `threshold` (a key) and of the first `ties` equal to it."""
    keys, count = values.view(np.int32), 0
    for group in range(values.size // 64):
        lanes = lanes_at_least(values.ctypes.data + 256 * group, np.int32(threshold))
        while lanes:
            i = 64 * group + lowest_bit(lanes)
            lanes &= lanes - np.uint64(1)
            key = keys[i] & 0x7FFFFFFF
            if key > threshold or ties > 0:
                listed[count] = i
                count += 1
                ties -= key == threshold
    return count


@inline
def _keep_largest(values: Any, low: Any, count: Any, slots: Any, probe: Any, near: Any, listed: Any) -> Any:
    """Cut `listed`, `count` > `slots` indices of all magnitudes that reach `low`, to the largest; returns how many."""
    near[:] = 0
    for j in range(count):
        near[j] = abs(values[listed[j]])
    keys = near.view(np.int32)
    threshold, ties = _threshold(near, low, _max_key(near), slots, slots, probe)
    kept = 0
    for j in range(count):
        listed[kept] = listed[j]
        taken = (keys[j] > threshold) | ((keys[j] == threshold) & (ties > 0))
        ties -= keys[j] == threshold
        kept += taken
    return kept


@inline
def _select(values: Any, lanes: Any, guess: Any, slots: Any, probe: Any, near: Any, listed: Any) -> Any:
    """List, ascending, the indices of the `slots` largest non-zero magnitudes, ties to the smaller.

    `values` [m] fp32, m a multiple of 64; `lanes` uint64 [m / 64] says which reach `guess`; `near` fp32 and `listed`
    int32 are `listed.size` ≥ 2 `slots` of scratch, rounded up to 64 for `near`. Returns (how many, the next guess).
    """
    count, room = 0, listed.size
    for group in range(lanes.size):
        count += count_bits(lanes[group])
    if slots <= count <= room or (count < slots and guess == 1):
        _list_lanes(lanes, listed)
        low, guess = guess, guess + ((count - (slots + room) // 2) << 13) if count >= slots else 1
    else:
        top = _max_key(values)
        if top == 0:
            return 0, guess
        low, ties = _threshold(values, 0, top, slots, room, probe)
        count, guess = _list_at_least(values, low, ties, listed), low
    if count > slots:
        count = _keep_largest(values, low, count, slots, probe, near, listed)
    return count, min(max(guess, 1), _INFINITY)


@inline
def _nearest_bf16(pattern: Any) -> Any:
    return min((np.int64(pattern) + 0x8000) >> 16, 0x7F7F)


@inline
def _fit_two_levels(values: Any, middle: Any, bits: Any, real: Any) -> Any:
    """Levels word of INT2: the mean magnitude either side of `middle`, as bf16."""
    sum_upper, sum_lower, upper = 0.0, 0.0, 0
    for j in range(values.size):
        magnitude = np.float64(abs(values[j]))
        above = abs(values[j]) >= middle
        sum_upper += magnitude if above else 0.0
        sum_lower += 0.0 if above else magnitude
        upper += above
    if upper == values.size:
        sum_lower, lower = sum_upper, upper
    else:
        lower = values.size - upper
    real[0] = np.float32(sum_lower / lower)
    word = _nearest_bf16(bits[0])
    real[0] = np.float32(sum_upper / upper)
    return word | _nearest_bf16(bits[0]) << 16


@inline
def _range(values: Any, bits: Any, real: Any) -> Any:
    """The least and the largest magnitude of `values` [m ≥ 1]; as patterns, since these loops vectorise."""
    keys, least, most = values.view(np.int32), np.int32(0x7FFFFFFF), np.int32(0)
    for j in range(keys.size):
        least = min(least, keys[j] & np.int32(0x7FFFFFFF))
        most = max(most, keys[j] & np.int32(0x7FFFFFFF))
    bits[0] = least
    smallest = real[0]
    bits[0] = most
    return smallest, real[0]


@inline
def _fit_levels(values: Any, smallest: Any, largest: Any, middle: Any, quantizer: Any, bits: Any, real: Any) -> Any:
    """The levels word for `values` [m ≥ 1]; `bits` int32[1] and `real` fp32[1] share memory, as scratch."""
    if quantizer == INT2:
        return _fit_two_levels(values, middle, bits, real)
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
def split_levels(word: Any, bits: Any, real: Any) -> Any:
    """The two bf16 levels of a levels word, as fp32."""
    bits[0] = np.int32(word << 16)
    low = real[0]
    bits[0] = np.int32(word & ~0xFFFF)
    return low, real[0]


@inline
def pack(listed: Any, numbers: Any, width: Any, low: Any, high: Any, codes: Any) -> None:
    """Indices `listed` and codes `numbers` (`width` bits each) of all slots into a chunk's payload; unused are 0."""
    for j in range(low.size):
        low[j] = listed[j] & 255
    for j in range(high.size):
        high[j] = listed[2 * j] >> 8 | listed[2 * j + 1] >> 8 << 4
    if width == 2:
        for j in range(codes.size):
            first, second = numbers[4 * j] | numbers[4 * j + 1] << 2, numbers[4 * j + 2] | numbers[4 * j + 3] << 2
            codes[j] = first | second << 4
    elif width == 4:
        for j in range(codes.size):
            codes[j] = numbers[2 * j] | numbers[2 * j + 1] << 4
    else:
        for j in range(codes.size):
            codes[j] = numbers[j]


@inline
def _send(values: Any, listed: Any, numbers: Any, quantizer: Any, residual: Any, probe: Any) -> Any:
    """Code `values` [m ≥ 1] of the indices `listed` into `numbers`, leave x − sent there; returns the levels word."""
    bits, real = probe.view(np.int32), probe
    smallest, largest = _range(values, bits, real)
    middle = smallest * np.float32(0.5) + largest * np.float32(0.5)
    word = _fit_levels(values, smallest, largest, middle, quantizer, bits, real)
    level_low, level_high = split_levels(word, bits, real)
    inverse = np.float32(1) / level_low if quantizer == FP8 else level_low
    for j in range(values.size):
        code = encode(values[j], middle, inverse, level_high, quantizer, bits, real)
        numbers[j] = code
        residual[listed[j]] = values[j] - decode(code, level_low, level_high, quantizer, bits, real)
    return word


@inline
def _compress_chunk(
    x: Any, lanes: Any, guess: Any, quantizer: Any, low: Any, high: Any, codes: Any, near: Any, listed: Any, probe: Any
) -> Any:
    """Select, code and pack one chunk `x` [a multiple of 64], and take what is sent from it.

    Returns (levels word, count, next guess); the rest is as in `_select`.
    """
    slots = low.size
    count, guess = _select(x, lanes, guess, slots, probe, near, listed)
    listed[count:] = 0
    numbers = near.view(np.int32)
    word = 0
    if count:
        values = np.empty(count, np.float32)
        for j in range(count):
            values[j] = x[listed[j]]
        word = _send(values, listed, numbers, quantizer, x, probe)
    numbers[count:slots] = 0
    pack(listed, numbers, 2 if quantizer == INT2 else 4 if quantizer == INT4 else 8, low, high, codes)
    return word, count, guess


@inline
def _add(gradient: Any, residual: Any, guess: Any, lanes: Any) -> Any:
    """residual += gradient, both [a multiple of 64]; `lanes` gets which magnitudes reach `guess`; returns non-finite.

    `gradient` is fp32, or bf16 patterns (uint16).
    """
    bad, home, source = 0, residual.ctypes.data, gradient.ctypes.data
    for group in range(residual.size // 64):
        if gradient.itemsize == 2:
            lanes[group], wrong = add_bf16_lanes(source + 128 * group, home + 256 * group, np.int32(guess))
        else:
            lanes[group], wrong = add_fp32_lanes(source + 256 * group, home + 256 * group, np.int32(guess))
        bad += count_bits(wrong)
    return bad


@parallel
def compress(
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
    """Compress `gradient` [n] into the payload's sections; `residual` [n] fp32 is replaced.

    `gradient` is fp32, or bf16 patterns (uint16).
    """
    for span in prange((counts.size + SPAN - 1) // SPAN):
        guess, room = np.int64(_INFINITY), 2 * slots + 16
        lanes, probe = np.empty(chunk // 64, np.uint64), np.empty(1, np.float32)
        listed, near = np.empty(room, np.int32), np.empty((room + 63) // 64 * 64, np.float32)
        for c in range(span * SPAN, min((span + 1) * SPAN, counts.size)):
            start = np.int64(c) * chunk
            mine, x = gradient[start : start + chunk], residual[start : start + chunk]
            if x.size < chunk:
                mine, x = np.zeros(chunk, gradient.dtype), np.zeros(chunk, np.float32)
                mine[: residual.size - start], x[: residual.size - start] = gradient[start:], residual[start:]
            nonfinite[c] = _add(mine, x, guess, lanes)
            levels[c], counts[c], guess = _compress_chunk(
                x, lanes, guess, quantizer, low[c], high[c], codes[c], near, listed, probe
            )
            if start + chunk > residual.size:
                residual[start:] = x[: residual.size - start]
