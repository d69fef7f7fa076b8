"""What changed between two versions of a tensor, and its inverse: a scatter into a live model with an undo log."""

from __future__ import annotations

import numpy as np
import torch

from kernels.checks import require, require_size
from kernels.delta.live import LiveModel, Region, ScatterRefused, StagedDelta
from kernels.delta.model_delta import BITS_OF, INT32_LIMIT, ModelDelta, TensorDelta


def diff(old: torch.Tensor, new: torch.Tensor) -> TensorDelta:
    """Ascending positions where the bits differ, and the new values: the same on every run and back-end.

    Args:
        old, new: one size and dtype (bf16, fp16 or fp32), any contiguous shape.

    Raises:
        TypeError, ValueError: dtype, layout, size or device, with the mend.
    """
    require(old, "old", tuple(BITS_OF))
    require(new, "new", (old.dtype,), like=old)
    require_size(new, "new", old.numel())
    if old.device.type == "cuda":
        from kernels.delta.triton import diff_cuda

        return diff_cuda(old, new)
    return _diff_cpu(old, new)


def _diff_cpu(old: torch.Tensor, new: torch.Tensor) -> TensorDelta:
    from kernels.delta import cpu

    bits = BITS_OF[old.dtype]
    before, after = cpu.unsigned(old.view(-1).view(bits)), cpu.unsigned(new.view(-1).view(bits))
    counts = cpu.count_changes(before, after)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    positions = torch.empty(int(starts[-1]), dtype=torch.int64 if old.numel() >= INT32_LIMIT else torch.int32)
    values = torch.empty(int(starts[-1]), dtype=old.dtype)
    cpu.write_changes(before, after, starts[:-1], positions.numpy(), cpu.unsigned(values.view(bits)))
    return TensorDelta(old.numel(), positions, values)


__all__ = ["LiveModel", "ModelDelta", "Region", "ScatterRefused", "StagedDelta", "TensorDelta", "diff"]
