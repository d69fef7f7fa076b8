"""A release's raw bytes as torch tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from releases.bundle import RawTensor

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def as_tensor(raw: RawTensor) -> Tensor:
    """A tensor that owns its memory. Raises ValueError for a dtype that weights do not have."""
    if raw.dtype not in _DTYPES:
        raise ValueError(f"dtype {raw.dtype} is none of {sorted(_DTYPES)}: not a release of weights")
    octets = torch.from_numpy(np.frombuffer(raw.data, np.uint8).copy())
    return octets.view(_DTYPES[raw.dtype]).reshape(raw.shape)
