"""A model's weights as one flat fp32 vector, and how it is cut into shards."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 4096
"""Shards and fragments start at multiples of this, the largest chunk a compressed payload has."""


@dataclass(frozen=True)
class FlatLayout:
    """Which tensor lies where in the vector.

    Attributes:
        names, shapes: in the vector's order.
        starts: each tensor's first element, and the total as the last entry.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FlatLayout:
        """The layout of `tensors`, in their order.

        Raises:
            TypeError: a tensor that is not fp32.
        """
        starts = [0]
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32:
                raise TypeError(f"{name} is {tensor.dtype}: workers exchange fp32 weights, load the model as float32")
            starts.append(starts[-1] + tensor.numel())
        return cls(tuple(tensors), tuple(tuple(tensor.shape) for tensor in tensors.values()), tuple(starts))

    def row_start(self, name: str, row: int) -> int:
        """Element at which row `row` of the tensor begins."""
        number = self.names.index(name)
        return self.starts[number] + row * math.prod(self.shapes[number][1:])

    @property
    def num_elements(self) -> int:
        """Of the vector."""
        return self.starts[-1]

    @property
    def digest(self) -> str:
        """16 hex digits that two ends compare."""
        text = repr((self.names, self.shapes))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors by name, as views of `flat` `[n]`."""
        parts = zip(self.names, self.shapes, self.starts[:-1], self.starts[1:], strict=True)
        return {name: flat[start:stop].view(shape) for name, shape, start, stop in parts}


def cut(num_elements: int, parts: int) -> list[tuple[int, int]]:
    """`parts` half-open ranges of nearly equal size, aligned to `ALIGNMENT`; later ones may be empty.

    Raises:
        ValueError: fewer than one part.
    """
    if parts < 1:
        raise ValueError(f"{parts} parts: take at least 1")
    chunks = -(-num_elements // ALIGNMENT)
    edges = [min(num_elements, chunks * number // parts * ALIGNMENT) for number in range(parts + 1)]
    return list(itertools.pairwise(edges))


def bind(model: Any) -> tuple[FlatLayout, Tensor]:
    """Make the model's parameters views of one vector `[n]`: what changes it changes them. A tied one appears once."""
    parameters = dict(model.named_parameters())
    layout = FlatLayout.of(parameters)
    flat = torch.empty(layout.num_elements, device=next(iter(parameters.values())).device)
    for name, view in layout.views(flat).items():
        view.copy_(parameters[name].detach())
        parameters[name].data = view
    return layout, flat
