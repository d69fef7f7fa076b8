"""Error-feedback compression: add the residual, keep the k largest of each chunk, quantize, pack, write what is left.

`compress(gradient, residual, spec)` picks the Triton kernel on a CUDA device and numba on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.checks import require, require_size
from kernels.payload import CompressionSpec, Payload, Quantizer

QUANTIZER_NUMBER = {Quantizer.INT2: 0, Quantizer.INT4: 1, Quantizer.INT8: 2, Quantizer.FP8: 3}


@dataclass(frozen=True)
class Compressed:
    """What `compress` returns.

    Attributes:
        payload: to send.
        nonfinite: int64 scalar tensor on the gradient's device: gradient elements that counted as zero because
            they, or their sum with the residual, were not finite. Reading it waits for the device.
    """

    payload: Payload
    nonfinite: torch.Tensor


def compress(
    gradient: torch.Tensor,
    residual: torch.Tensor,
    spec: CompressionSpec | None = None,
    out: Payload | None = None,
) -> Compressed:
    """Compress `gradient + residual` and leave in `residual` exactly what was not sent.

    With x = fp32(gradient + residual), the new residual is fp32(x − sent), where `sent` is bit-equal to what
    `decompress_accumulate` decodes. Selection is exact: the k largest magnitudes of each chunk as fp32, ties to the
    smaller index, zeros never sent.

    Args:
        gradient: `[n]` (or any contiguous shape) bf16 or fp32.
        residual: as many elements, fp32; overwritten.
        spec: chunk, slots, quantizer; by default 64 of 4096 at 2 bits.
        out: a payload to write into, so that a training loop allocates nothing.

    Raises:
        TypeError, ValueError: dtype, layout, size or device, with the mend.
    """
    spec = spec or (out.spec if out else CompressionSpec())
    require(gradient, "gradient", (torch.bfloat16, torch.float32))
    require(residual, "residual", (torch.float32,), like=gradient)
    require_size(residual, "residual", gradient.numel())
    payload = out or Payload.empty(gradient.numel(), spec, gradient.device)
    if payload.spec != spec or payload.num_elements != gradient.numel():
        raise ValueError(
            f"out is for {payload.num_elements} elements of {payload.spec}: make it with this spec and size"
        )
    if gradient.device.type == "cuda":
        from kernels.compress.triton import compress_cuda

        return Compressed(payload, compress_cuda(gradient.view(-1), residual.view(-1), payload))
    return Compressed(payload, _compress_cpu(gradient.view(-1), residual.view(-1), payload))


def _compress_cpu(gradient: torch.Tensor, residual: torch.Tensor, payload: Payload) -> torch.Tensor:
    from kernels.compress import cpu

    spec = payload.spec
    nonfinite = torch.zeros(payload.num_chunks, dtype=torch.int64)
    if gradient.dtype == torch.bfloat16:
        gradient = gradient.view(torch.uint16)
    cpu.compress(
        gradient.numpy(),
        residual.numpy(),
        spec.chunk,
        spec.slots,
        QUANTIZER_NUMBER[spec.quantizer],
        payload.levels.numpy(),
        payload.section(1).numpy(),
        payload.section(2).numpy(),
        payload.section(3).numpy(),
        payload.counts.numpy(),
        nonfinite.numpy(),
    )
    return nonfinite.sum()


__all__ = ["Compressed", "CompressionSpec", "Payload", "Quantizer", "compress"]
