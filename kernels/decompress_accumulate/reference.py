"""`decompress_accumulate` written for reading: decode each payload, add the weighted sums in order, in fp32."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels.compress.reference import dequantize, unpack
from kernels.payload import Payload


def decode_reference(payload: Payload) -> torch.Tensor:
    """The `[n]` fp32 tensor that `payload` stands for."""
    spec, chunks = payload.spec, payload.num_chunks
    index = payload.section(1).to(torch.int64) | unpack(payload.section(2), 4) << 8
    codes = unpack(payload.section(3), spec.quantizer.bits)
    values = dequantize(codes, payload.levels[:, None], spec.quantizer)
    used = torch.arange(spec.slots) < payload.counts[:, None]
    dense = torch.zeros(chunks * spec.chunk)
    flat = index + torch.arange(chunks)[:, None] * spec.chunk
    dense[flat[used]] = values[used]
    return dense[: payload.num_elements]


def decompress_accumulate_reference(
    payloads: Sequence[Payload], weights: Sequence[float], out: torch.Tensor, *, accumulate: bool
) -> torch.Tensor:
    """out (or 0) + Σ weight · decoded, added payload by payload, as a new `[n]` fp32 tensor."""
    total = out.clone() if accumulate else torch.zeros_like(out)
    for payload, weight in zip(payloads, weights, strict=True):
        total += torch.tensor(weight, dtype=torch.float32) * decode_reference(payload)
    return total
