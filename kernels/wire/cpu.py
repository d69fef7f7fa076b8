"""The wire format on a CPU: numba, one group of 8 chunks a turn.

A chunk's gaps, codes and their bits are computed for all slots at once, in loops that vectorise; only joining and
splitting the stream goes slot by slot, and without a branch that could be guessed wrong. A group's stream is made and
read in scratch that is longer than any, so that neither checks for its end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.compress.cpu import pack
from kernels.jit import inline, load_64, lowest_bit, parallel, prange
from kernels.wire.layout import ESCAPE, GROUP

_SLOT_BITS = ESCAPE + 1 + 12 + 8
"""The most a slot takes: an escape, and an 8-bit code."""


@inline
def _rice(last: Any, count: Any) -> Any:
    mean = min((last + 1 - count) * 177 // (256 * count), 255)
    rice = 0
    while mean > 1:
        mean >>= 1
        rice += 1
    return rice


@inline
def _room(slots: Any) -> Any:
    """32-bit words that no group's stream fills."""
    return GROUP * (44 + slots * _SLOT_BITS) // 32 + 4


@inline
def _gaps(low: Any, high: Any, places: Any, gaps: Any) -> None:
    """Each slot's distance to the one before, less one; `places` int32 [slots + 1] is scratch."""
    places[0] = -1
    for pair in range(high.size):
        places[1 + 2 * pair] = np.int32(low[2 * pair]) | (np.int32(high[pair]) & 15) << 8
        places[2 + 2 * pair] = np.int32(low[2 * pair + 1]) | (np.int32(high[pair]) >> 4) << 8
    for slot in range(low.size):
        gaps[slot] = places[slot + 1] - places[slot] - 1


@inline
def _last_index(low: Any, high: Any, count: Any) -> Any:
    slot = count - 1
    return np.int64(low[slot]) | (np.int64(high[slot >> 1]) >> ((slot & 1) * 4) & 15) << 8


@inline
def _chunk_bits(low: Any, high: Any, count: Any, width: Any, places: Any, gaps: Any) -> Any:
    """Bits one chunk takes."""
    bits = 1 if count == low.size else 9
    if count == 0:
        return bits
    rice = np.int32(_rice(_last_index(low, high, count), count))
    _gaps(low, high, places, gaps)
    escaped, extra = np.int32(ESCAPE + 12) - rice, np.int32(0)
    for slot in range(count):
        quotient = gaps[slot] >> rice
        extra += quotient if quotient < ESCAPE else escaped
    return bits + 35 + count * (1 + rice + width) + extra


@parallel
def measure(low: Any, high: Any, counts: Any, slots: Any, width: Any, table: Any) -> None:
    """Words of each group into `table` uint16 [G]."""
    for group in prange(table.size):
        bits, places, gaps = 0, np.empty(slots + 1, np.int32), np.empty(slots, np.int32)
        for chunk in range(group * GROUP, min((group + 1) * GROUP, counts.size)):
            bits += _chunk_bits(low[chunk], high[chunk], np.int64(counts[chunk]), width, places, gaps)
        table[group] = (bits + 31) // 32


@inline
def _spread_codes(codes: Any, width: Any, numbers: Any) -> None:
    """A chunk's packed codes as uint32, one a slot."""
    per_byte, mask = 8 // width, np.uint32((1 << width) - 1)
    for part in range(per_byte):
        shift = np.uint32(part * width)
        for j in range(codes.size):
            numbers[j * per_byte + part] = np.uint32(codes[j]) >> shift & mask


@inline
def _words_of(gaps: Any, numbers: Any, rice: Any, width: Any, bits: Any) -> None:
    """Each slot's code word over `numbers` (its code before), and its length in `bits`; uint32 [slots] all.

    0 bits for an escape.
    """
    low_bits = np.uint32((1 << rice) - 1)
    for slot in range(numbers.size):
        gap = np.uint32(gaps[slot])
        quotient = gap >> np.uint32(rice)
        rest = (gap & low_bits) | numbers[slot] << np.uint32(rice)
        short = quotient < np.uint32(ESCAPE)
        word = (np.uint32(1) | rest << np.uint32(1)) << (quotient & np.uint32(15))
        numbers[slot] = word if short else numbers[slot]
        bits[slot] = quotient + np.uint32(1 + rice + width) if short else np.uint32(0)


@inline
def _put(held: Any, length: Any, at: Any, value: Any, width: Any, words: Any) -> Any:
    """Append `value`, of `width` ≤ 32 bits, to `held` uint64, of `length` < 32; returns the next (held, length, at)."""
    held |= np.uint64(value) << np.uint64(length)
    length += np.int64(width)
    words[at] = np.uint32(held & np.uint64(0xFFFFFFFF))
    full = length >> 5
    return held >> np.uint64(full << 5), length & 31, at + full


@inline
def _put_chunk(
    held: Any, length: Any, at: Any, words: Any, low: Any, high: Any, codes: Any, level: Any, count: Any, scratch: Any
) -> Any:
    """Append one chunk; `scratch` is places int32 [slots + 1], gaps int32, code words and their bits uint32."""
    places, gaps, numbers, bits = scratch
    slots, width = low.size, codes.size * 8 // low.size
    if count == slots:
        held, length, at = _put(held, length, at, 1, 1, words)
    else:
        held, length, at = _put(held, length, at, count << 1, 9, words)
    if count == 0:
        return held, length, at
    rice = _rice(_last_index(low, high, count), count)
    held, length, at = _put(held, length, at, rice, 3, words)
    held, length, at = _put(held, length, at, np.int64(level) & 0xFFFFFFFF, 32, words)
    _gaps(low, high, places, gaps)
    _spread_codes(codes, width, numbers)
    _words_of(gaps, numbers, rice, width, bits)
    for slot in range(count):
        if bits[slot]:
            held, length, at = _put(held, length, at, numbers[slot], bits[slot], words)
        else:
            held, length, at = _put(held, length, at, 1 << ESCAPE, ESCAPE + 1, words)
            escaped = np.int64(gaps[slot]) | np.int64(numbers[slot]) << 12
            held, length, at = _put(held, length, at, escaped, 12 + width, words)
    return held, length, at


@parallel
def write(
    levels: Any, low: Any, high: Any, codes: Any, counts: Any, slots: Any, width: Any, starts: Any, words: Any
) -> None:
    """The groups' streams into `words` uint32, group g from word `starts[g]` on."""
    for group in prange(starts.size):
        stream = np.empty(_room(slots), np.uint32)
        places, gaps = np.empty(slots + 1, np.int32), np.empty(slots, np.int32)
        scratch = places, gaps, np.empty(slots, np.uint32), np.empty(slots, np.uint32)
        held, length, at = np.uint64(0), np.int64(0), np.int64(0)
        for chunk in range(group * GROUP, min((group + 1) * GROUP, counts.size)):
            count = np.int64(counts[chunk])
            held, length, at = _put_chunk(
                held, length, at, stream, low[chunk], high[chunk], codes[chunk], levels[chunk], count, scratch
            )
        if length:
            stream[at] = np.uint32(held)
            at += 1
        words[starts[group] : starts[group] + at] = stream[:at]


@inline
def _look(stream: Any, bit: Any) -> Any:
    """The stream from `bit` on: a uint64 with at least 57 bits of it."""
    return load_64(stream.ctypes.data + (bit >> 3)) >> np.uint64(bit & 7)


@inline
def _take(word: Any, width: Any) -> Any:
    return np.int64(word & ((np.uint64(1) << np.uint64(width)) - np.uint64(1)))


@inline
def _split(stream: Any, bit: Any, rice: Any, width: Any, count: Any, indices: Any, numbers: Any) -> Any:
    """Read `count` slots from `bit` on: indices and codes, int32; returns the bit after them."""
    index = -1
    for slot in range(count):
        word = _look(stream, bit)
        quotient = lowest_bit(word | np.uint64(1 << ESCAPE))
        word >>= np.uint64(quotient + 1)
        if quotient < ESCAPE:
            gap = quotient << rice | _take(word, rice)
            numbers[slot] = _take(word >> np.uint64(rice), width)
            bit += quotient + 1 + rice + width
        else:
            gap = _take(word, 12)
            numbers[slot] = _take(word >> np.uint64(12), width)
            bit += ESCAPE + 1 + 12 + width
        index = (index + gap + 1) & 4095
        indices[slot] = index
    return bit


@inline
def _take_chunk(stream: Any, bit: Any, low: Any, high: Any, codes: Any, indices: Any, numbers: Any) -> Any:
    """Read one chunk; returns (the bit after it, count, levels word)."""
    slots, width = low.size, codes.size * 8 // low.size
    head = _look(stream, bit)
    count = slots if head & np.uint64(1) else min(_take(head >> np.uint64(1), 8), slots)
    bit += 1 if head & np.uint64(1) else 9
    level = 0
    if count:
        head = _look(stream, bit)
        rice, level = _take(head, 3), _take(head >> np.uint64(3), 32)
        bit = _split(stream, bit + 35, rice, width, count, indices, numbers)
    indices[count:] = 0
    numbers[count:] = 0
    pack(indices, numbers, width, low, high, codes)
    return bit, count, level


@parallel
def read(
    words: Any, starts: Any, levels: Any, low: Any, high: Any, codes: Any, counts: Any, slots: Any, width: Any
) -> None:
    """The inverse of `write`; `starts` has one entry more than groups. Past the end of a stream come zeros."""
    for group in prange(starts.size - 1):
        stream = np.zeros(_room(slots), np.uint32)
        indices, numbers = np.empty(slots, np.int32), np.empty(slots, np.int32)
        mine = words[starts[group] : min(starts[group + 1], starts[group] + stream.size)]
        stream[: mine.size] = mine
        bit = 0
        for chunk in range(group * GROUP, min((group + 1) * GROUP, counts.size)):
            bit, count, level = _take_chunk(stream, bit, low[chunk], high[chunk], codes[chunk], indices, numbers)
            counts[chunk] = count
            levels[chunk] = level
