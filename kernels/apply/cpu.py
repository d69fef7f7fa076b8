"""Optimizer steps on a CPU: numba, one chunk in the first-level cache at a time, all cores.

A chunk's gradient exists only in that cache. Loops are split so that each vectorises; `scalars` are the seven of
`AdamSettings.scalars`, fp32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.decompress_accumulate.cpu import add_all
from kernels.jit import inline, parallel, prange, stream_64


@inline
def _round_to_bf16(values: Any, rounded: Any) -> None:
    """fp32 → bf16 patterns (uint16), to nearest, ties to even; a NaN stays one."""
    patterns = values.view(np.uint32)
    for i in range(values.size):
        word = patterns[i]
        near = (word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        rounded[i] = np.uint16(0x7FC0) if (word & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else np.uint16(near)


@inline
def _write_copy(master: Any, copy: Any, rounded: Any) -> None:
    """Refresh the bf16 copy, past the caches where it is aligned; `rounded` is uint16 scratch."""
    if copy.size == 0:
        return
    if copy.size % 32 == 0 and copy.ctypes.data % 64 == 0:
        _round_to_bf16(master, rounded)
        for line in range(copy.size // 32):
            stream_64(copy.ctypes.data + 64 * line, rounded.ctypes.data + 64 * line)
    else:
        _round_to_bf16(master, copy)


@inline
def _adam(master: Any, first: Any, second: Any, gradient: Any, scalars: Any) -> None:
    """One Adam step over equal-length fp32 slices, in place."""
    beta1, beta2, rate, root, epsilon, factor, l2 = scalars
    rest1, rest2 = np.float32(1) - beta1, np.float32(1) - beta2
    for i in range(master.size):
        slope = gradient[i] + l2 * master[i]
        mean = beta1 * first[i] + rest1 * slope
        square = beta2 * second[i] + rest2 * (slope * slope)
        first[i] = mean
        second[i] = square
        master[i] = master[i] * factor - rate * mean / (np.sqrt(square) * root + epsilon)


@parallel
def adam(
    master: Any,
    copy: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    scalars: Any,
    addresses: Any,
    size: Any,
    weights: Any,
    at: Any,
    chunk: Any,
    slots: Any,
    quantizer: Any,
    chunks: Any,
) -> None:
    """Adam over `[n]` state from W payloads at `addresses`; `copy` uint16 [n] or [0]."""
    for c in prange(chunks):
        scratch = np.empty(17, np.float32)
        gradient = np.zeros(chunk, np.float32)
        rounded = np.empty(chunk, np.uint16)
        add_all(gradient, addresses, size, weights, c, at, slots, quantizer, scratch)
        start = np.int64(c) * chunk
        stop = min(start + chunk, master.size)
        mine = master[start:stop]
        _adam(mine, exp_avg[start:stop], exp_avg_sq[start:stop], gradient[: stop - start], scalars)
        _write_copy(mine, copy[start:stop], rounded)


@parallel
def sgd(
    master: Any,
    copy: Any,
    rate: Any,
    decay: Any,
    addresses: Any,
    size: Any,
    weights: Any,
    at: Any,
    chunk: Any,
    slots: Any,
    quantizer: Any,
    chunks: Any,
) -> None:
    """p −= rate · (g + decay · p) over `[n]`, from W payloads at `addresses`."""
    for c in prange(chunks):
        scratch = np.empty(17, np.float32)
        gradient = np.zeros(chunk, np.float32)
        rounded = np.empty(chunk, np.uint16)
        add_all(gradient, addresses, size, weights, c, at, slots, quantizer, scratch)
        start = np.int64(c) * chunk
        mine = master[start : min(start + chunk, master.size)]
        for i in range(mine.size):
            mine[i] -= rate * (gradient[i] + decay * mine[i])
        _write_copy(mine, copy[start : start + mine.size], rounded)


@parallel
def lazy_adamw(
    master: Any,
    copy: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    last_step: Any,
    rows: Any,
    gradient: Any,
    scalars: Any,
    step: Any,
) -> None:
    """AdamW on `rows` [R] of `[N, D]` state; `last_step` int32 [N] is brought to `step`; `copy` uint16 [N or 0, D]."""
    for r in prange(rows.size):
        row = rows[r]
        mine, first, second = master[row], exp_avg[row], exp_avg_sq[row]
        missed = np.float64(step - 1 - last_step[row])
        if missed > 0:
            decay1 = np.float32(np.float64(scalars[0]) ** missed)
            decay2 = np.float32(np.float64(scalars[1]) ** missed)
            shrink = np.float32(np.float64(scalars[5]) ** missed)
            for i in range(mine.size):
                first[i] *= decay1
                second[i] *= decay2
                mine[i] *= shrink
        _adam(mine, first, second, gradient[r], scalars)
        if copy.shape[0]:
            _round_to_bf16(mine, copy[row])
        last_step[row] = step
