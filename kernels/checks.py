"""Input checks shared by the ops: each says what is wrong and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def require(tensor: torch.Tensor, name: str, dtypes: Sequence[torch.dtype], like: torch.Tensor | None = None) -> None:
    """Refuse a tensor of another dtype, on another device than `like`, or one that is not contiguous.

    Raises:
        TypeError: the dtype.
        ValueError: layout or device.
    """
    if tensor.dtype not in dtypes:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} is {str(tensor.dtype).removeprefix('torch.')}: convert it to {wanted}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} is not contiguous (strides {tensor.stride()}): call .contiguous() on it")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name} is on {tensor.device}, the rest on {like.device}: move it there")


def require_size(tensor: torch.Tensor, name: str, num_elements: int) -> None:
    """Refuse a tensor that has not `num_elements` elements.

    Raises:
        ValueError: names both sizes.
    """
    if tensor.numel() != num_elements:
        raise ValueError(f"{name} has {tensor.numel()} elements where {num_elements} are needed")
