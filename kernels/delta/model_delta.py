"""A sparse difference between two versions of some tensors, in checkpoint coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

BITS_OF = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
"""The integer type whose equality is bit equality."""
INT32_LIMIT = 2**31


@dataclass(frozen=True)
class TensorDelta:
    """What changed in one tensor of `num_elements`.

    Attributes:
        positions: `[m]` int32 (int64 from 2³¹ elements on), ascending row-major positions.
        values: `[m]`, the new values, in the tensor's dtype.
    """

    num_elements: int
    positions: torch.Tensor
    values: torch.Tensor

    @property
    def count(self) -> int:
        """Changed elements."""
        return self.positions.numel()


@dataclass(frozen=True)
class ModelDelta:
    """Changes of many tensors of one dtype, end to end, as a scatter reads them.

    Attributes:
        names: checkpoint names.
        starts: `len(names) + 1` offsets into the two tensors below.
        positions: `[M]` int32 or int64, ascending within a tensor.
        values: `[M]`, new values.
    """

    names: Sequence[str]
    starts: Sequence[int]
    positions: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, deltas: Mapping[str, TensorDelta]) -> ModelDelta:
        """Join `deltas`, in their order.

        Raises:
            ValueError: none, or two dtypes.
        """
        if not deltas:
            raise ValueError("a model delta needs at least one tensor")
        dtypes = {delta.values.dtype for delta in deltas.values()}
        if len(dtypes) > 1:
            raise ValueError(f"values of {sorted(map(str, dtypes))} in one delta: make one for each dtype")
        starts = [0]
        for delta in deltas.values():
            starts.append(starts[-1] + delta.count)
        wide = any(delta.num_elements >= INT32_LIMIT for delta in deltas.values())
        positions = torch.cat([delta.positions.to(torch.int64 if wide else torch.int32) for delta in deltas.values()])
        return cls(list(deltas), starts, positions, torch.cat([delta.values for delta in deltas.values()]))

    @property
    def count(self) -> int:
        """Changed elements of all tensors."""
        return self.positions.numel()
