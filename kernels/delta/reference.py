"""`diff`, `scatter` and the checksum written for reading, in plain PyTorch."""

from __future__ import annotations

import torch

from kernels.delta.model_delta import BITS_OF, INT32_LIMIT, TensorDelta

_MASK = 2**64 - 1


def diff_reference(old: torch.Tensor, new: torch.Tensor) -> TensorDelta:
    """Positions whose bits differ (−0 is not 0; equal NaN patterns are equal), and the new values there."""
    bits = BITS_OF[old.dtype]
    changed = (old.view(-1).view(bits) != new.view(-1).view(bits)).nonzero().view(-1)
    positions = changed.to(torch.int64 if old.numel() >= INT32_LIMIT else torch.int32)
    return TensorDelta(old.numel(), positions, new.view(-1)[changed])


def coefficient_reference(position: int) -> int:
    """The odd 64-bit coefficient of the element at `position`: two rounds of a multiplicative mix."""
    mixed = position * 0x9E3779B97F4A7C15 & _MASK
    mixed ^= mixed >> 32
    mixed = mixed * 0xD6E8FEB86659FD93 & _MASK
    return (mixed ^ mixed >> 32) | 1


def checksum_reference(tensors: list[torch.Tensor]) -> int:
    """Σ coefficient(p) · pattern(p) mod 2⁶⁴ over the tensors' elements, p counting through all of them in order."""
    total, position = 0, 0
    for tensor in tensors:
        bits = BITS_OF[tensor.dtype]
        modulus = 2**16 if bits is torch.int16 else 2**32
        for pattern in tensor.reshape(-1).view(bits).tolist():
            total += coefficient_reference(position) * (pattern % modulus)
            position += 1
    return total & _MASK
