"""The wire format on a CPU: numba, one group of 8 chunks a turn, 64-bit accumulators."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.jit import inline, parallel, prange
from kernels.wire.layout import ESCAPE, GROUP


@inline
def _rice(last: Any, count: Any) -> Any:
    mean = min((last + 1 - count) * 177 // (256 * count), 255)
    rice = 0
    while mean > 1:
        mean >>= 1
        rice += 1
    return rice


@inline
def _code(codes: Any, slot: Any, width: Any) -> Any:
    per_byte = 8 // width
    return (codes[slot // per_byte] >> ((slot % per_byte) * width)) & ((1 << width) - 1)


@inline
def _index(low: Any, high: Any, slot: Any) -> Any:
    return np.int64(low[slot]) | (np.int64(high[slot >> 1]) >> ((slot & 1) * 4) & 15) << 8


@inline
def _chunk_bits(low: Any, high: Any, count: Any, slots: Any, width: Any) -> Any:
    """Bits one chunk takes."""
    bits = 1 if count == slots else 9
    if count == 0:
        return bits
    rice = _rice(_index(low, high, count - 1), count)
    bits += 35 + count * (1 + rice + width)
    before = -1
    for slot in range(count):
        index = _index(low, high, slot)
        quotient = (index - before - 1) >> rice
        bits += quotient if quotient < ESCAPE else ESCAPE + 12 - rice
        before = index
    return bits


@parallel
def measure(low: Any, high: Any, counts: Any, slots: Any, width: Any, table: Any) -> None:
    """Words of each group into `table` uint16 [G]."""
    for group in prange(table.size):
        bits = 0
        for chunk in range(group * GROUP, min((group + 1) * GROUP, counts.size)):
            bits += _chunk_bits(low[chunk], high[chunk], np.int64(counts[chunk]), slots, width)
        table[group] = (bits + 31) // 32


@inline
def _put(state: Any, words: Any, value: Any, width: Any) -> None:
    """Append `value`, which has `width` ≤ 32 bits; `state` uint64 [3]: accumulator, bits held (< 32), next word."""
    state[0] |= np.uint64(value) << state[1]
    state[1] += np.uint64(width)
    if state[1] >= np.uint64(32):
        words[state[2]] = np.uint32(state[0] & np.uint64(0xFFFFFFFF))
        state[2] += np.uint64(1)
        state[0] >>= np.uint64(32)
        state[1] -= np.uint64(32)


@inline
def _write_chunk(
    state: Any, words: Any, low: Any, high: Any, codes: Any, level: Any, count: Any, slots: Any, width: Any
) -> None:
    if count == slots:
        _put(state, words, 1, 1)
    else:
        _put(state, words, count << 1, 9)
    if count == 0:
        return
    rice = _rice(_index(low, high, count - 1), count)
    _put(state, words, rice, 3)
    _put(state, words, np.int64(level) & 0xFFFFFFFF, 32)
    before = -1
    for slot in range(count):
        index = _index(low, high, slot)
        gap = index - before - 1
        before = index
        quotient = gap >> rice
        code = np.int64(_code(codes, slot, width))
        if quotient < ESCAPE:
            rest = (gap & ((1 << rice) - 1)) | code << rice
            _put(state, words, (1 | rest << 1) << quotient, quotient + 1 + rice + width)
        else:
            _put(state, words, 1 << ESCAPE, ESCAPE + 1)
            _put(state, words, gap | code << 12, 12 + width)


@parallel
def write(
    levels: Any, low: Any, high: Any, codes: Any, counts: Any, slots: Any, width: Any, starts: Any, words: Any
) -> None:
    """The groups' streams into `words` uint32, group g from word `starts[g]` on."""
    for group in prange(starts.size):
        state = np.zeros(3, np.uint64)
        state[2] = starts[group]
        for chunk in range(group * GROUP, min((group + 1) * GROUP, counts.size)):
            _write_chunk(
                state,
                words,
                low[chunk],
                high[chunk],
                codes[chunk],
                levels[chunk],
                np.int64(counts[chunk]),
                slots,
                width,
            )
        if state[1] > 0:
            words[state[2]] = np.uint32(state[0])


@inline
def _get(state: Any, words: Any, width: Any) -> Any:
    """Take `width` ≤ 32 bits; past the end of `words` come zeros."""
    _refill(state, words)
    value = state[0] & ((np.uint64(1) << np.uint64(width)) - np.uint64(1))
    state[0] >>= np.uint64(width)
    state[1] -= np.uint64(width)
    return np.int64(value)


@inline
def _refill(state: Any, words: Any) -> None:
    if state[1] < np.uint64(32):
        if state[2] < np.uint64(words.size):
            state[0] |= np.uint64(words[state[2]]) << state[1]
        state[2] += np.uint64(1)
        state[1] += np.uint64(32)


@inline
def _read_chunk(state: Any, words: Any, low: Any, high: Any, codes: Any, slots: Any, width: Any) -> Any:
    """Returns (count, levels word); a stream that goes wrong stops at the chunk's end."""
    low[:] = 0
    high[:] = 0
    codes[:] = 0
    count = slots if _get(state, words, 1) else min(_get(state, words, 8), slots)
    if count == 0:
        return 0, 0
    rice = _get(state, words, 3)
    level = _get(state, words, 32)
    per_byte = 8 // width
    index = -1
    for slot in range(count):
        quotient = 0
        _refill(state, words)
        pattern = state[0]
        while quotient < ESCAPE and pattern & np.uint64(1) == np.uint64(0):
            pattern >>= np.uint64(1)
            quotient += 1
        state[0] >>= np.uint64(quotient + 1)
        state[1] -= np.uint64(quotient + 1)
        if quotient < ESCAPE:
            rest = _get(state, words, rice + width)
            gap, code = quotient << rice | (rest & ((1 << rice) - 1)), rest >> rice
        else:
            rest = _get(state, words, 12 + width)
            gap, code = rest & 4095, rest >> 12
        index = (index + gap + 1) & 4095
        low[slot] = index & 255
        high[slot >> 1] |= (index >> 8) << ((slot & 1) * 4)
        codes[slot // per_byte] |= code << ((slot % per_byte) * width)
    return count, level


@parallel
def read(
    words: Any, starts: Any, levels: Any, low: Any, high: Any, codes: Any, counts: Any, slots: Any, width: Any
) -> None:
    """The inverse of `write`; `starts` has one entry more than groups."""
    for group in prange(starts.size - 1):
        mine = words[starts[group] : starts[group + 1]]
        state = np.zeros(3, np.uint64)
        for chunk in range(group * GROUP, min((group + 1) * GROUP, counts.size)):
            count, level = _read_chunk(state, mine, low[chunk], high[chunk], codes[chunk], slots, width)
            counts[chunk] = count
            levels[chunk] = level
