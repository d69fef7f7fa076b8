"""Safetensors to and from raw bytes, without torch and for every dtype (bf16 and fp8 included)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, BinaryIO

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


def write_tensors_to(file: BinaryIO, tensors: Mapping[str, RawTensor]) -> None:
    """Append a safetensors file to `file`, a tensor at a time.

    The library's own writer copies the whole file while it holds the interpreter's lock: 768 MB kept a process's other
    threads waiting for 6 s on two busy cores. A file's `write` lets go of it. Format: the header's length as 8
    little-endian bytes, a JSON header padded to 8 bytes, the tensors' bytes (safetensors' README, "Format").
    """
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + memoryview(tensor.data).nbytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for tensor in tensors.values():
        file.write(tensor.data)


def read_tensors(data: bytes) -> dict[str, RawTensor]:
    """The tensors in a safetensors file's bytes. Raises ReleaseCorrupt when they are not one."""
    try:
        found: list[tuple[str, dict[str, Any]]] = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ReleaseCorrupt(f"{len(data)} bytes that are not a whole safetensors file ({error})") from error
    return {name: RawTensor(view["dtype"], tuple(view["shape"]), bytes(view["data"])) for name, view in found}
