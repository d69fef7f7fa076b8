"""torch tensors to and from the release store's raw ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from releases.bundle import RawTensor

_NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def to_raw(tensors: Mapping[str, Tensor]) -> dict[str, RawTensor]:
    """Views of the tensors' bytes; on the CPU they share memory, so use them before the next step."""
    return {name: _raw(tensor) for name, tensor in tensors.items()}


def from_raw(tensors: Mapping[str, RawTensor]) -> dict[str, Tensor]:
    """Tensors on the CPU with memory of their own."""
    return {name: _tensor(raw) for name, raw in tensors.items()}


def _raw(tensor: Tensor) -> RawTensor:
    # A scalar can't be viewed as bytes: flatten first.
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return RawTensor(_NAMES[tensor.dtype], tuple(tensor.shape), flat.view(torch.uint8).numpy().data)


def _tensor(raw: RawTensor) -> Tensor:
    if not len(raw.data):
        return torch.empty(raw.shape, dtype=_DTYPES[raw.dtype])
    return torch.frombuffer(bytearray(raw.data), dtype=_DTYPES[raw.dtype]).reshape(raw.shape)
