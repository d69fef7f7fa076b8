"""Peers' payloads into an fp32 buffer: out (or 0) + Σ weight · decoded, bit-equal to what each sender took away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kernels.checks import require, require_size
from kernels.compress import QUANTIZER_NUMBER
from kernels.payload import Payload

MAX_PAYLOADS = 64


def check_payloads(payloads: Sequence[Payload], num_elements: int, device: torch.device) -> None:
    """Refuse none or more than `MAX_PAYLOADS`, and payloads of another spec, size or device.

    Raises:
        ValueError: says which payload and what it should be.
    """
    if not 1 <= len(payloads) <= MAX_PAYLOADS:
        raise ValueError(f"{len(payloads)} payloads: give 1 to {MAX_PAYLOADS}, more in several calls")
    for number, payload in enumerate(payloads):
        if payload.spec != payloads[0].spec:
            raise ValueError(f"payload {number} has {payload.spec}, the first {payloads[0].spec}: one spec a call")
        if payload.num_elements != num_elements:
            raise ValueError(f"payload {number} stands for {payload.num_elements} elements, not {num_elements}")
        require(payload.buffer, f"payload {number}'s buffer", (torch.uint8,))
        if payload.buffer.device != device:
            raise ValueError(f"payload {number} is on {payload.buffer.device}, the target on {device}: move it there")


def addresses(payloads: Sequence[Payload]) -> np.ndarray:
    """`[W]` uint64 addresses of CPU payloads' buffers; the caller keeps the payloads alive."""
    return np.array([payload.buffer.data_ptr() for payload in payloads], dtype=np.uint64)


def decompress_accumulate(
    payloads: Sequence[Payload],
    out: torch.Tensor,
    weights: Sequence[float] | None = None,
    *,
    accumulate: bool = False,
) -> torch.Tensor:
    """Write Σ weight · decoded into `out`, or add it; returns `out`.

    Sums are fp32, in the payloads' order, each product rounded before it is added: the result is the same on
    every back-end and every run.

    Args:
        payloads: 1 to 64 of one spec and size.
        out: `[n]` (any contiguous shape) fp32.
        weights: one a payload; all 1 by default.
        accumulate: add to what `out` holds instead of overwriting it.

    Raises:
        TypeError, ValueError: dtype, layout, size, device or spec, with the mend.
    """
    require(out, "out", (torch.float32,))
    check_payloads(payloads, out.numel(), out.device)
    factors = torch.tensor([1.0] * len(payloads) if weights is None else list(weights), dtype=torch.float32)
    require_size(factors, "weights", len(payloads))
    if out.device.type == "cuda":
        from kernels.decompress_accumulate.triton import decompress_accumulate_cuda

        device_factors = factors.pin_memory().to(out.device, non_blocking=True)
        decompress_accumulate_cuda(payloads, device_factors, out.view(-1), accumulate=accumulate)
        return out
    _accumulate_cpu(payloads, factors, out.view(-1), accumulate=accumulate)
    return out


def _accumulate_cpu(payloads: Sequence[Payload], weights: torch.Tensor, out: torch.Tensor, *, accumulate: bool) -> None:
    from kernels.decompress_accumulate import cpu

    spec = payloads[0].spec
    cpu.accumulate(
        out.numpy(),
        addresses(payloads),
        payloads[0].num_bytes,
        weights.numpy(),
        spec.offsets(payloads[0].num_chunks)[:5],
        spec.chunk,
        spec.slots,
        QUANTIZER_NUMBER[spec.quantizer],
        payloads[0].num_chunks,
        accumulate,
    )


def return_to_residual(payload: Payload, residual: torch.Tensor) -> torch.Tensor:
    """Put a payload that was refused back: residual += sent. Nothing of the gradient is lost.

    Args:
        payload: the sender's own, as `compress` wrote it.
        residual: `[n]` fp32, as `compress` left it.
    """
    return decompress_accumulate([payload], residual, accumulate=True)


__all__ = ["MAX_PAYLOADS", "addresses", "check_payloads", "decompress_accumulate", "return_to_residual"]
