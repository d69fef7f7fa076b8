"""Optimizer steps in Triton. Dense: persistent programs, each with one chunk of scratch that stays in the L2 cache.

A chunk's gradient is summed into the scratch (zero between chunks), read once while the state streams through, and
its touched elements are zeroed again: the gradient never reaches memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.compress.triton import NUMBER
from kernels.decompress_accumulate.triton import add_payloads, load_slots, pointer_table, ways
from kernels.payload import Payload


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
    scratch,
    buffers,
    weights,
    num_payloads,
    num_elements,
    num_chunks,
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
    BLOCK: tl.constexpr,
    WAYS: tl.constexpr,
):
    mine = scratch + tl.program_id(0) * CHUNK
    for chunk_number in range(tl.program_id(0), num_chunks, tl.num_programs(0)):
        chunk = tl.zeros([], tl.int64) + chunk_number
        add_payloads(
            mine,
            buffers,
            weights,
            num_payloads,
            chunk,
            low_at,
            high_at,
            codes_at,
            counts_at,
            SLOTS,
            BITS,
            QUANTIZER,
            WAYS,
        )
        left = tl.minimum(num_elements - chunk * CHUNK, CHUNK).to(tl.int32)
        for part in range(CHUNK // BLOCK):
            offset = part * BLOCK + tl.arange(0, BLOCK)
            at = chunk * CHUNK + offset
            gradient = tl.load(mine + offset)
            if left == CHUNK:
                weight = tl.load(master + at)
                if ADAM:
                    weight, first, second = _adam(
                        weight,
                        tl.load(exp_avg + at),
                        tl.load(exp_avg_sq + at),
                        gradient,
                        beta1,
                        beta2,
                        rate,
                        root,
                        epsilon,
                        factor,
                        l2,
                    )
                    tl.store(exp_avg + at, first)
                    tl.store(exp_avg_sq + at, second)
                else:
                    weight -= rate * (gradient + l2 * weight)
                tl.store(master + at, weight)
                if COPY:
                    tl.store(copy + at, weight.to(tl.bfloat16))
            else:
                inside = offset < left
                weight = tl.load(master + at, mask=inside, other=0.0)
                if ADAM:
                    weight, first, second = _adam(
                        weight,
                        tl.load(exp_avg + at, mask=inside, other=0.0),
                        tl.load(exp_avg_sq + at, mask=inside, other=0.0),
                        gradient,
                        beta1,
                        beta2,
                        rate,
                        root,
                        epsilon,
                        factor,
                        l2,
                    )
                    tl.store(exp_avg + at, first, mask=inside)
                    tl.store(exp_avg_sq + at, second, mask=inside)
                else:
                    weight -= rate * (gradient + l2 * weight)
                tl.store(master + at, weight, mask=inside)
                if COPY:
                    tl.store(copy + at, weight.to(tl.bfloat16), mask=inside)
        tl.debug_barrier()
        for first in range(0, num_payloads, WAYS):
            index, _, used, _ = load_slots(
                buffers, first, num_payloads, chunk, low_at, high_at, codes_at, counts_at, SLOTS, BITS, QUANTIZER, WAYS
            )
            tl.store(mine + index, tl.zeros([WAYS * SLOTS], tl.float32), mask=used)
        tl.debug_barrier()


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


def _programs(device: torch.device, per_processor: int) -> int:
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count * per_processor


def apply_cuda(
    master: torch.Tensor,
    copy: torch.Tensor | None,
    moments: tuple[torch.Tensor, torch.Tensor] | None,
    payloads: Sequence[Payload],
    weights: torch.Tensor,
    scalars: Sequence[float],
    num_warps: int = 16,
    block: int = 4096,
    per_processor: int = 2,
) -> None:
    """Launch Adam (with `moments`) or SGD (without) over a flat `master`."""
    spec, chunks = payloads[0].spec, payloads[0].num_chunks
    programs = min(chunks, _programs(master.device, per_processor))
    scratch = torch.zeros(programs * spec.chunk, dtype=torch.float32, device=master.device)
    first, second = moments or (master, master)
    _apply_kernel[(programs,)](
        master,
        master if copy is None else copy,
        first,
        second,
        scratch,
        pointer_table(payloads),
        weights,
        len(payloads),
        master.numel(),
        chunks,
        *spec.offsets(chunks)[1:5],
        *scalars,
        CHUNK=spec.chunk,
        SLOTS=spec.slots,
        BITS=spec.quantizer.bits,
        QUANTIZER=NUMBER[spec.quantizer],
        ADAM=moments is not None,
        COPY=copy is not None,
        BLOCK=min(block, spec.chunk),
        WAYS=ways(len(payloads)),
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
