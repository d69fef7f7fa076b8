"""Flat tensors to and from bytes."""

from __future__ import annotations

import torch
from torch import Tensor


def to_bytes(tensor: Tensor) -> bytes:
    """The elements of a contiguous CPU tensor, little-endian."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()


def from_bytes(data: bytes, dtype: torch.dtype) -> Tensor:
    """A flat tensor with memory of its own."""
    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)
