"""`decompress_accumulate` on a CPU: numba, one chunk in the first-level cache at a time, all cores."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from kernels.compress.cpu import INT2, INT4, decode, split_levels
from kernels.jit import byte_pointer, inline, parallel, prange, stream_64


@inline
def _level_table(word: Any, quantizer: Any, table: Any, bits: Any, real: Any) -> None:
    """Decode every code of INT2 or INT4 once for the chunk."""
    low, high = split_levels(word, bits, real)
    for code in range(4 if quantizer == INT2 else 16):
        table[code] = decode(code, low, high, quantizer, bits, real)


@inline
def add_chunk(
    target: Any, buffer: Any, chunk: Any, weight: Any, at: Any, slots: Any, quantizer: Any, scratch: Any
) -> None:
    """target[index] += weight · value for the chunk's slots.

    `target` is the chunk's `[≤ chunk]` fp32, `buffer` a payload's bytes, `at` where its five sections start,
    `scratch` fp32[17].
    """
    real = scratch[16:17]
    bits = real.view(np.int32)
    count = np.int64(buffer[at[4] + chunk])
    if count == 0:
        return
    word = np.int64(buffer[at[0] : at[1]].view(np.int32)[chunk])
    low = buffer[at[1] + chunk * slots : at[1] + (chunk + 1) * slots]
    high = buffer[at[2] + chunk * (slots // 2) : at[2] + (chunk + 1) * (slots // 2)]
    if quantizer == INT2:
        _level_table(word, quantizer, scratch, bits, real)
        codes = buffer[at[3] + chunk * (slots // 4) : at[3] + (chunk + 1) * (slots // 4)]
        for j in range(count):
            index = np.int64(low[j]) | (np.int64(high[j >> 1]) >> ((j & 1) * 4) & 15) << 8
            target[index] += weight * scratch[codes[j >> 2] >> ((j & 3) * 2) & 3]
    elif quantizer == INT4:
        _level_table(word, quantizer, scratch, bits, real)
        codes = buffer[at[3] + chunk * (slots // 2) : at[3] + (chunk + 1) * (slots // 2)]
        for j in range(count):
            index = np.int64(low[j]) | (np.int64(high[j >> 1]) >> ((j & 1) * 4) & 15) << 8
            target[index] += weight * scratch[codes[j >> 1] >> ((j & 1) * 4) & 15]
    else:
        level_low, level_high = split_levels(word, bits, real)
        codes = buffer[at[3] + chunk * slots : at[3] + (chunk + 1) * slots]
        for j in range(count):
            index = np.int64(low[j]) | (np.int64(high[j >> 1]) >> ((j & 1) * 4) & 15) << 8
            target[index] += weight * decode(np.int64(codes[j]), level_low, level_high, quantizer, bits, real)


@inline
def add_all(
    target: Any, addresses: Any, size: Any, weights: Any, chunk: Any, at: Any, slots: Any, quantizer: Any, scratch: Any
) -> None:
    """`add_chunk` for each payload in turn; `addresses` uint64 [W] of buffers of `size` bytes."""
    for w in range(addresses.size):
        buffer = numba.carray(byte_pointer(addresses[w]), (size,))
        add_chunk(target, buffer, chunk, weights[w], at, slots, quantizer, scratch)


@parallel
def accumulate(
    out: Any,
    addresses: Any,
    size: Any,
    weights: Any,
    at: Any,
    chunk: Any,
    slots: Any,
    quantizer: Any,
    chunks: Any,
    keep: Any,
) -> None:
    """out = (out where `keep`, else 0) + Σ weight · decoded, weights fp32 [W].

    A chunk is summed in the cache and streamed past it: overwriting never reads `out`.
    """
    for c in prange(chunks):
        scratch = np.empty(17, np.float32)
        start = np.int64(c) * chunk
        target = out[start : min(start + chunk, out.size)]
        total = np.zeros(chunk, np.float32)
        if keep:
            for i in range(target.size):
                total[i] = target[i]
        add_all(total, addresses, size, weights, c, at, slots, quantizer, scratch)
        if target.size == chunk and target.ctypes.data % 64 == 0:
            for line in range(chunk // 16):
                stream_64(target.ctypes.data + 64 * line, total.ctypes.data + 64 * line)
        else:
            for i in range(target.size):
                target[i] = total[i]
