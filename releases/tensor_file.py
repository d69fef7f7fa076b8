"""Safetensors to and from raw bytes, without torch and for every dtype (bf16 and fp8 included)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors import SafetensorError, TensorSpec, deserialize, serialize

from releases.bundle import RawTensor, ReleaseCorrupt

_CONSTRUCTOR_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
"""A file's header says `BF16` where the library's constructor wants `bfloat16`."""


def write_tensors(tensors: Mapping[str, RawTensor]) -> bytes:
    """A safetensors file's bytes.

    Raises:
        ValueError: a dtype this format does not have, or bytes that do not fill the shape.
    """
    specs: dict[str, TensorSpec] = {}
    views = []
    for name, tensor in tensors.items():
        if tensor.dtype not in _CONSTRUCTOR_NAMES:
            raise ValueError(f"{name}: dtype {tensor.dtype} is none of {sorted(_CONSTRUCTOR_NAMES)}")
        # The library takes an address; the view keeps the buffer alive until it has been copied.
        view = np.frombuffer(tensor.data, np.uint8)
        views.append(view)
        specs[name] = TensorSpec(
            dtype=_CONSTRUCTOR_NAMES[tensor.dtype],
            shape=tensor.shape,
            data_ptr=view.ctypes.data,
            data_len=view.nbytes,
        )
    try:
        return bytes(serialize(specs))
    except SafetensorError as error:
        raise ValueError(f"tensors that are no safetensors file: {error}") from error


def read_tensors(data: bytes) -> dict[str, RawTensor]:
    """The tensors in a safetensors file's bytes. Raises ReleaseCorrupt when they are not one."""
    try:
        found: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ReleaseCorrupt(f"{len(data)} bytes that are not a whole safetensors file ({error})") from error
    return {name: RawTensor(view["dtype"], tuple(view["shape"]), bytes(view["data"])) for name, view in found}
