"""Payloads straight into optimizer state: SGD, Adam, AdamW, and a lazy AdamW for gradients of a few rows.

No dense gradient buffer exists; the fp32 master, both moments and the bf16 copy are read and written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from kernels.apply.settings import AdamSettings, AdamState
from kernels.checks import require, require_size
from kernels.compress import QUANTIZER_NUMBER
from kernels.decompress_accumulate import addresses, check_payloads
from kernels.payload import Payload

_NO_COPY = np.empty(0, dtype=np.uint16)


def _factors(weights: Sequence[float] | None, payloads: Sequence[Payload]) -> torch.Tensor:
    factors = torch.tensor([1.0] * len(payloads) if weights is None else list(weights), dtype=torch.float32)
    require_size(factors, "weights", len(payloads))
    return factors


def _flat(copy: torch.Tensor | None) -> torch.Tensor | None:
    return None if copy is None else copy.view(-1)


def _apply(device: torch.device) -> Callable[..., None]:
    if device.type == "cuda":
        from kernels.apply.triton import apply_cuda

        return apply_cuda
    return _apply_cpu


def _apply_cpu(
    master: torch.Tensor,
    copy: torch.Tensor | None,
    moments: tuple[torch.Tensor, torch.Tensor] | None,
    payloads: Sequence[Payload],
    weights: torch.Tensor,
    scalars: Sequence[float],
) -> None:
    from kernels.apply import cpu

    first = payloads[0]
    spec = first.spec
    layout = (
        addresses(payloads),
        first.num_bytes,
        weights.numpy(),
        spec.offsets(first.num_chunks)[:5],
        spec.chunk,
        spec.slots,
        QUANTIZER_NUMBER[spec.quantizer],
        first.num_chunks,
    )
    patterns = _NO_COPY if copy is None else copy.view(torch.uint16).numpy()
    numbers = tuple(np.float32(scalar) for scalar in scalars)
    if moments is None:
        cpu.sgd(master.numpy(), patterns, numbers[2], numbers[6], *layout)
    else:
        cpu.adam(master.numpy(), patterns, moments[0].numpy(), moments[1].numpy(), numbers, *layout)


def apply_sgd(
    payloads: Sequence[Payload],
    master: torch.Tensor,
    copy: torch.Tensor | None,
    learning_rate: float,
    weight_decay: float = 0.0,
    weights: Sequence[float] | None = None,
) -> None:
    """master −= lr · (Σ weight · decoded + λ · master), in place; `copy` (bf16, or None) follows.

    Raises:
        TypeError, ValueError: dtype, layout, size, device or spec, with the mend.
    """
    require(master, "master", (torch.float32,))
    check_payloads(payloads, master.numel(), master.device)
    if copy is not None:
        require(copy, "copy", (torch.bfloat16,), like=master)
        require_size(copy, "copy", master.numel())
    factors = _factors(weights, payloads)
    scalars = (0.0, 0.0, learning_rate, 0.0, 0.0, 0.0, weight_decay)
    _apply(master.device)(master.view(-1), _flat(copy), None, payloads, factors.to(master.device), scalars)


def apply_adam(
    payloads: Sequence[Payload],
    state: AdamState,
    settings: AdamSettings,
    step: int,
    weights: Sequence[float] | None = None,
) -> None:
    """One Adam or AdamW step (`settings.decoupled`) by Σ weight · decoded, in place.

    Args:
        payloads: 1 to 64 of one spec, for as many elements as `state.master`.
        state: changed in place.
        settings: α, β, ε, λ.
        step: this step's number, from 1, for the bias correction.
        weights: one a payload; all 1 by default.

    Raises:
        TypeError, ValueError: dtype, layout, size, device, spec or step, with the mend.
    """
    state.check()
    check_payloads(payloads, state.master.numel(), state.master.device)
    factors, scalars = _factors(weights, payloads), settings.scalars(step)
    master, moments = state.master.view(-1), (state.exp_avg.view(-1), state.exp_avg_sq.view(-1))
    _apply(master.device)(master, _flat(state.copy), moments, payloads, factors.to(master.device), scalars)


def apply_lazy_adamw(
    rows: torch.Tensor,
    gradient: torch.Tensor,
    state: AdamState,
    last_step: torch.Tensor,
    settings: AdamSettings,
    step: int,
) -> None:
    """AdamW on the touched rows of `[N, D]` state, in place.

    Before its step a row catches up: with s steps missed since `last_step`, m ← β1ˢ m, v ← β2ˢ v and
    p ← (1 − α λ)ˢ p. What dense AdamW would also have done in those steps, moving p along its decaying momentum, is
    left out; rows that are never touched are never read.

    Args:
        rows: `[R]` int64, each row once.
        gradient: `[R, D]` bf16 or fp32.
        state: tensors `[N, D]`.
        last_step: `[N]` int32, 0 for a row never touched; set to `step` for the touched.
        settings: decoupled ones.
        step: this step's number, above every row's last.

    Raises:
        TypeError, ValueError: dtype, layout, size, device or settings, with the mend.
    """
    state.check()
    require(rows, "rows", (torch.int64,), like=state.master)
    require(gradient, "gradient", (torch.bfloat16, torch.float32), like=state.master)
    require(last_step, "last_step", (torch.int32,), like=state.master)
    if state.master.dim() != 2 or gradient.shape != (rows.numel(), state.master.shape[1]):
        raise ValueError(
            f"gradient is {tuple(gradient.shape)}: with {rows.numel()} rows and weights {tuple(state.master.shape)} "
            f"it should be [{rows.numel()}, {state.master.shape[-1]}]"
        )
    require_size(last_step, "last_step", state.master.shape[0])
    if not settings.decoupled:
        raise ValueError("lazy Adam with L2 would need the weights of every missed step: set decoupled=True (AdamW)")
    tensors = (state.master, state.copy, state.exp_avg, state.exp_avg_sq)
    run = _lazy_cpu
    if state.master.device.type == "cuda":
        from kernels.apply.triton import lazy_adamw_cuda as run
    run(tensors, last_step, rows, gradient, settings.scalars(step), step)


def _lazy_cpu(
    state: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor],
    last_step: torch.Tensor,
    rows: torch.Tensor,
    gradient: torch.Tensor,
    scalars: Sequence[float],
    step: int,
) -> None:
    from kernels.apply import cpu

    master, copy, exp_avg, exp_avg_sq = state
    cpu.lazy_adamw(
        master.numpy(),
        _NO_COPY.reshape(0, 1) if copy is None else copy.view(torch.uint16).numpy(),
        exp_avg.numpy(),
        exp_avg_sq.numpy(),
        last_step.numpy(),
        rows.numpy(),
        gradient.float().numpy(),
        tuple(np.float32(scalar) for scalar in scalars),
        step,
    )


__all__ = ["AdamSettings", "AdamState", "apply_adam", "apply_lazy_adamw", "apply_sgd"]
