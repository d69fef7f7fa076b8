"""Optimizer steps in Triton. Dense: one program a chunk, whose gradient is summed in shared memory.

The state's loads come first, so that memory works while the payloads are summed; the gradient never reaches memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.compress.triton import NUMBER
from kernels.decompress_accumulate.triton import pointer_table, sum_payloads, ways
from kernels.payload import Payload
from kernels.scratch import scratch_of, spare_words


@triton.jit
def _adam(master, first, second, gradient, beta1, beta2, rate, root, epsilon, factor, l2):
    """New (p, m, v) of one Adam step; see `AdamSettings.scalars`."""
    gradient += l2 * master
    first = beta1 * first + (1 - beta1) * gradient
    second = beta2 * second + (1 - beta2) * (gradient * gradient)
    return master * factor - rate * first / (tl.sqrt(second) * root + epsilon), first, second


@triton.jit
def _apply_kernel(
    master,
    copy,
    exp_avg,
    exp_avg_sq,
    spare,
    buffers,
    weights,
    num_payloads,
    num_elements,
    first_chunk,
    low_at,
    high_at,
    codes_at,
    counts_at,
    beta1,
    beta2,
    rate,
    root,
    epsilon,
    factor,
    l2,
    CHUNK: tl.constexpr,
    SLOTS: tl.constexpr,
    BITS: tl.constexpr,
    QUANTIZER: tl.constexpr,
    ADAM: tl.constexpr,
    COPY: tl.constexpr,
    TAIL: tl.constexpr,
    WAYS: tl.constexpr,
    HELD_TWICE: tl.constexpr,
    SHARED: tl.constexpr,
):
    chunk = tl.program_id(0).to(tl.int64) + first_chunk
    scratch = scratch_of(spare, SHARED)
    offset = tl.arange(0, CHUNK)
    at = chunk * CHUNK + offset
    inside = offset < (num_elements - chunk * CHUNK).to(tl.int32) if TAIL else None
    weight = tl.load(master + at, mask=inside)
    if ADAM:
        first = tl.load(exp_avg + at, mask=inside)
        second = tl.load(exp_avg_sq + at, mask=inside)
    gradient = sum_payloads(
        scratch,
        buffers,
        weights,
        num_payloads,
        chunk,
        low_at,
        high_at,
        codes_at,
        counts_at,
        CHUNK,
        SLOTS,
        BITS,
        QUANTIZER,
        WAYS,
        HELD_TWICE,
        SHARED,
    )
    if ADAM:
        weight, first, second = _adam(weight, first, second, gradient, beta1, beta2, rate, root, epsilon, factor, l2)
        tl.store(exp_avg + at, first, mask=inside)
        tl.store(exp_avg_sq + at, second, mask=inside)
    else:
        weight -= rate * (gradient + l2 * weight)
    tl.store(master + at, weight, mask=inside)
    if COPY:
        # Eight bytes a thread: at sixteen, every fp32 tensor would be held in eights and moved through shared memory.
        fours = tl.max_contiguous(chunk * CHUNK + tl.arange(0, CHUNK), 4)
        tl.store(copy + fours, weight.to(tl.bfloat16), mask=inside)


@triton.jit
def _lazy_kernel(
    master,
    copy,
    exp_avg,
    exp_avg_sq,
    last_step,
    rows,
    gradient,
    step,
    columns,
    log_beta1,
    log_beta2,
    log_factor,
    beta1,
    beta2,
    rate,
    root,
    epsilon,
    factor,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    number = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + number).to(tl.int64)
    missed = (step - 1 - tl.load(last_step + row)).to(tl.float32)
    decay1 = tl.exp2(missed * log_beta1)
    decay2 = tl.exp2(missed * log_beta2)
    shrink = tl.exp2(missed * log_factor)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        at = row * columns + column
        slope = tl.load(gradient + number * columns + column, mask=inside, other=0.0).to(tl.float32)
        weight = tl.load(master + at, mask=inside, other=0.0) * shrink
        first = tl.load(exp_avg + at, mask=inside, other=0.0) * decay1
        second = tl.load(exp_avg_sq + at, mask=inside, other=0.0) * decay2
        weight, first, second = _adam(weight, first, second, slope, beta1, beta2, rate, root, epsilon, factor, 0.0)
        tl.store(exp_avg + at, first, mask=inside)
        tl.store(exp_avg_sq + at, second, mask=inside)
        tl.store(master + at, weight, mask=inside)
        if COPY:
            tl.store(copy + at, weight.to(tl.bfloat16), mask=inside)
    tl.debug_barrier()
    tl.store(last_step + row, step)


def apply_cuda(
    master: torch.Tensor,
    copy: torch.Tensor | None,
    moments: tuple[torch.Tensor, torch.Tensor] | None,
    payloads: Sequence[Payload],
    weights: torch.Tensor,
    scalars: Sequence[float],
    num_warps: int = 16,
) -> None:
    """Launch Adam (with `moments`) or SGD (without) over a flat `master`: whole chunks, then the tail."""
    spec, chunks, many = payloads[0].spec, payloads[0].num_chunks, ways(len(payloads))
    first, second = moments or (master, master)
    table = pointer_table(payloads)
    whole = master.numel() // spec.chunk
    for start, number, tail in ((0, whole, False), (whole, chunks - whole, True)):
        if number:
            _apply_kernel[(number,)](
                master,
                master if copy is None else copy,
                first,
                second,
                spare_words(number, master.device),
                table,
                weights,
                len(payloads),
                master.numel(),
                start,
                *spec.offsets(chunks)[1:5],
                *scalars,
                CHUNK=spec.chunk,
                SLOTS=spec.slots,
                BITS=spec.quantizer.bits,
                QUANTIZER=NUMBER[spec.quantizer],
                ADAM=moments is not None,
                COPY=copy is not None,
                TAIL=tail,
                WAYS=many,
                HELD_TWICE=many * spec.slots < 32 * num_warps,
                SHARED=master.device.type == "cuda",
                num_warps=num_warps,
                enable_fp_fusion=False,
            )


def lazy_adamw_cuda(
    state: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor],
    last_step: torch.Tensor,
    rows: torch.Tensor,
    gradient: torch.Tensor,
    scalars: Sequence[float],
    step: int,
    num_warps: int = 4,
) -> None:
    """Launch one program a touched row."""
    master, copy, exp_avg, exp_avg_sq = state
    if rows.numel() == 0:
        return
    # β^s as 2^(s · log2 β): the fastest power, within 1e-6 of it for thousands of missed steps.
    logs = [math.log2(value) if value > 0 else -1e9 for value in (scalars[0], scalars[1], scalars[5])]
    _lazy_kernel[(rows.numel(),)](
        master,
        master if copy is None else copy,
        exp_avg,
        exp_avg_sq,
        last_step,
        rows,
        gradient,
        step,
        master.shape[1],
        *logs,
        *scalars[:6],
        COPY=copy is not None,
        BLOCK=min(1024, triton.next_power_of_2(master.shape[1])),
        num_warps=num_warps,
    )
