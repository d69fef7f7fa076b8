"""What changed between two releases: positions and absolute values for each tensor, and how they are put together.

In a delta's file a tensor that changed has two entries: `NAME@positions` (I32, or I64 from 2³¹ elements on, ascending
in row-major order) and `NAME@values` (the new values, in the tensor's dtype). One that did not change has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from releases.bundle import RawTensor, ReleaseCorrupt

POSITIONS, VALUES = "@positions", "@values"
_BITS: dict[str, Any] = {
    "F64": np.uint64, "I64": np.uint64, "U64": np.uint64,
    "F32": np.uint32, "I32": np.uint32, "U32": np.uint32,
    "F16": np.uint16, "BF16": np.uint16, "I16": np.uint16, "U16": np.uint16,
    "BOOL": np.uint8, "U8": np.uint8, "I8": np.uint8, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8,
}  # fmt: skip
_POSITIONS_DTYPE: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
_WIDE = 2**31


def make_delta(base: Mapping[str, RawTensor], new: Mapping[str, RawTensor]) -> dict[str, RawTensor]:
    """The file's tensors that lead from `base` to `new`, bit for bit.

    Raises:
        ValueError: tensors of other names, shapes or dtypes.
    """
    if base.keys() != new.keys():
        raise ValueError(f"tensors {sorted(base.keys() ^ new.keys())[:3]} are in one release only: publish an anchor")
    delta = {}
    for name, tensor in new.items():
        if (tensor.dtype, tensor.shape) != (base[name].dtype, base[name].shape):
            raise ValueError(f"{name} changed its dtype or shape: publish an anchor")
        before, after = _bits(base[name]), _bits(tensor)
        changed = np.flatnonzero(before != after)
        if changed.size:
            wide = after.size >= _WIDE
            positions = changed.astype("<i8" if wide else "<i4")
            shape = (int(changed.size),)
            delta[name + POSITIONS] = RawTensor("I64" if wide else "I32", shape, positions.tobytes())
            delta[name + VALUES] = RawTensor(tensor.dtype, shape, after[changed].tobytes())
    return delta


def apply_delta(base: Mapping[str, RawTensor], delta: Mapping[str, RawTensor]) -> dict[str, RawTensor]:
    """The release that `delta` leads to from `base`; untouched tensors share memory with it.

    Raises:
        ReleaseCorrupt: a tensor or position that `base` does not have.
    """
    tensors = dict(base)
    for name in [name.removesuffix(POSITIONS) for name in delta if name.endswith(POSITIONS)]:
        if name not in base or name + VALUES not in delta:
            raise ReleaseCorrupt(f"a delta changes {name}, which its base or its values lack")
        positions = np.frombuffer(delta[name + POSITIONS].data, _POSITIONS_DTYPE[delta[name + POSITIONS].dtype])
        bits = _bits(base[name]).copy()
        if positions.size and not 0 <= int(positions.min()) <= int(positions.max()) < bits.size:
            raise ReleaseCorrupt(f"a delta changes positions outside {name}, which has {bits.size} elements")
        bits[positions] = np.frombuffer(delta[name + VALUES].data, bits.dtype)
        tensors[name] = RawTensor(base[name].dtype, base[name].shape, bits.tobytes())
    return tensors


def num_bytes(tensors: Mapping[str, RawTensor]) -> int:
    """Bytes of the tensors' data."""
    return sum(memoryview(tensor.data).nbytes for tensor in tensors.values())


def _bits(tensor: RawTensor) -> NDArray[Any]:
    return np.frombuffer(tensor.data, _BITS[tensor.dtype])
