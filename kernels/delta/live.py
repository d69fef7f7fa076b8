"""A live model as a scatter sees it: regions that say where a checkpoint tensor's elements lie in memory.

`LiveModel` owns the checksum: Σ coefficient(p) · pattern(p) mod 2⁶⁴ over every live element, p counting through
the live tensors. It is linear, so a change of one element moves it by coefficient(p) · (new − old).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kernels.checks import require
from kernels.delta.model_delta import BITS_OF, ModelDelta

ENTRIES_A_BLOCK = 256
"""Delta entries one program (or one turn of the CPU loop) handles."""
PARTIAL_SUMS = 256
"""Checksum words that programs add to, so that they do not all wait for one."""


def _signed(word: int) -> int:
    """`word` mod 2⁶⁴ as torch's int64 holds it."""
    return (word + 2**63) % 2**64 - 2**63


class ScatterRefused(ValueError):
    """A delta that does not fit this model: unknown tensor, position outside it, disorder or another dtype."""


@dataclass(frozen=True)
class Region:
    """A rectangle of a checkpoint tensor `[rows, columns]` (1-D: one column) that this rank holds.

    Attributes:
        shape: of the checkpoint tensor, as two sizes.
        rows, columns: half-open ranges of it that are held.
        parameter: the live tensor, 1-D or 2-D, contiguous.
        at_row, at_column: where in `parameter` the rectangle starts.
    """

    shape: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]
    parameter: torch.Tensor
    at_row: int = 0
    at_column: int = 0

    @classmethod
    def whole(cls, parameter: torch.Tensor) -> Region:
        """A checkpoint tensor that is held as it is."""
        shape = (parameter.shape[0], parameter.shape[1] if parameter.dim() == 2 else 1)
        return cls(shape, (0, shape[0]), (0, shape[1]), parameter)


@dataclass(frozen=True)
class StagedDelta:
    """A delta made ready for one model: on its device, checked, cut into blocks, with room for the old values.

    Attributes:
        positions, values: `[M]`, on the device.
        undo: `[M]` bit patterns; filled by `scatter`, read by `revert`.
        blocks: `[B, 4]` int64: region, first and last + 1 entry, and the first position where the block's are
            consecutive (then no position is read), else −1.
    """

    positions: torch.Tensor
    values: torch.Tensor
    undo: torch.Tensor
    blocks: torch.Tensor


class LiveModel:
    """Scatter deltas into live tensors, undo them, and keep a checksum. Not for several threads at once."""

    def __init__(self, regions: Mapping[str, Sequence[Region]]) -> None:
        """Take the regions by checkpoint name, and read every live tensor once for the checksum.

        Raises:
            TypeError, ValueError: parameters of mixed dtype or device, or not contiguous.
        """
        self._regions = {name: list(parts) for name, parts in regions.items()}
        parameters: dict[int, torch.Tensor] = {}
        for part in (part for parts in self._regions.values() for part in parts):
            parameters.setdefault(part.parameter.data_ptr(), part.parameter.detach())
        self.parameters = list(parameters.values())
        if not self.parameters:
            raise ValueError("a live model needs at least one tensor")
        self.dtype, self.device = self.parameters[0].dtype, self.parameters[0].device
        for tensor in self.parameters:
            require(tensor, "a live parameter", (self.dtype,), like=self.parameters[0])
        sizes = [tensor.numel() for tensor in self.parameters]
        self.bases = dict(zip(parameters, [0, *np.cumsum(sizes)[:-1].tolist()], strict=True))
        self._numbers, self._table = self._tabulate()
        self._pieces: torch.Tensor | None = None
        self.sums = torch.zeros(PARTIAL_SUMS, dtype=torch.int64, device=self.device)
        self.sums[0] = self.measure()

    def _tabulate(self) -> tuple[dict[str, list[int]], torch.Tensor]:
        """Region numbers by name, and `[R, 8]` int64: address, stride, columns, r0, r1, c0, c1, checksum position."""
        numbers: dict[str, list[int]] = {}
        rows: list[list[int]] = []
        for name, parts in self._regions.items():
            numbers[name] = list(range(len(rows), len(rows) + len(parts)))
            for part in parts:
                stride = part.parameter.shape[1] if part.parameter.dim() == 2 else 1
                first = part.at_row * stride + part.at_column
                address = part.parameter.data_ptr() + first * part.parameter.element_size()
                base = self.bases[part.parameter.data_ptr()] + first
                rows.append([address, stride, part.shape[1], *part.rows, *part.columns, base])
        return numbers, torch.tensor(rows, dtype=torch.int64).to(self.device)

    def stage(self, delta: ModelDelta) -> StagedDelta:
        """Check `delta` against this model and lay it out for `scatter`; the live tensors are not touched.

        Raises:
            ScatterRefused: names the tensor and what is wrong with it.
        """
        if delta.values.dtype != self.dtype:
            raise ScatterRefused(f"the delta holds {delta.values.dtype}, the model {self.dtype}: convert the release")
        if missing := [name for name in delta.names if name not in self._regions]:
            raise ScatterRefused(f"the model has no {missing[0]} ({len(missing)} such): is this release of this model?")
        positions = delta.positions.to(self.device).contiguous()
        self._check_positions(delta, positions)
        blocks = self._blocks(delta, positions)
        values = delta.values.to(self.device).contiguous()
        return StagedDelta(positions, values, torch.empty_like(values).view(BITS_OF[self.dtype]), blocks)

    def _blocks(self, delta: ModelDelta, positions: torch.Tensor) -> torch.Tensor:
        parts = [np.empty((0, 3), np.int64)]
        for tensor, name in enumerate(delta.names):
            first, last = delta.starts[tensor], delta.starts[tensor + 1]
            starts = np.arange(first, last, ENTRIES_A_BLOCK, dtype=np.int64)
            stops = np.minimum(starts + ENTRIES_A_BLOCK, last)
            parts += [np.stack([np.full_like(starts, number), starts, stops], 1) for number in self._numbers[name]]
        table = torch.from_numpy(np.concatenate(parts)).to(self.device)
        head, tail = positions[table[:, 1]].to(torch.int64), positions[table[:, 2] - 1].to(torch.int64)
        # Ascending and distinct, so equal span and number mean consecutive.
        consecutive = tail - head == table[:, 2] - table[:, 1] - 1
        return torch.cat([table, torch.where(consecutive, head, -1)[:, None]], 1).contiguous()

    def _check_positions(self, delta: ModelDelta, positions: torch.Tensor) -> None:
        if not positions.numel():
            return
        firsts = torch.tensor(list(delta.starts), device=self.device)
        descends = torch.zeros(positions.numel() + 1, dtype=torch.bool, device=self.device)
        descends[1:-1] = positions[1:] <= positions[:-1]
        descends[firsts] = False
        if bool(descends.any()):
            raise ScatterRefused("positions do not ascend within their tensor: make the delta with kernels.delta.diff")
        for tensor, name in enumerate(delta.names):
            first, last = delta.starts[tensor], delta.starts[tensor + 1]
            rows, columns = self._regions[name][0].shape if self._regions[name] else (0, 0)
            if first < last and self._regions[name]:
                lowest, highest = int(positions[first]), int(positions[last - 1])
                if lowest < 0 or highest >= rows * columns:
                    raise ScatterRefused(f"{name}: positions {lowest} to {highest} in a tensor of {rows * columns}")

    def scatter(self, staged: StagedDelta) -> None:
        """Write the staged values, log the old ones in `staged.undo`, and bring the checksum up to date."""
        self._run(staged, staged.values.view(BITS_OF[self.dtype]), staged.undo)

    def revert(self, staged: StagedDelta) -> None:
        """Write back what `scatter` replaced; the tensors and the checksum are bitwise what they were before it."""
        self._run(staged, staged.undo, None)

    def _run(self, staged: StagedDelta, values: torch.Tensor, undo: torch.Tensor | None) -> None:
        from kernels.delta import cpu

        run = cpu.scatter_into
        if self.device.type == "cuda":
            from kernels.delta.triton import scatter_cuda as run
        run(self._table, staged.blocks, staged.positions, values, undo, self.sums)

    def checksum(self) -> str:
        """The running checksum, 16 hex digits."""
        return f"{int(self.sums.sum()) % 2**64:016x}"

    def measure(self) -> int:
        """The checksum as a signed 64-bit number, computed from the live tensors' memory."""
        flat = [tensor.view(-1).view(BITS_OF[self.dtype]) for tensor in self.parameters]
        bases = [self.bases[tensor.data_ptr()] for tensor in self.parameters]
        if self.device.type == "cuda":
            from kernels.delta.triton import checksum_cuda, piece_table

            if self._pieces is None:
                self._pieces = piece_table(flat, bases)
            return _signed(checksum_cuda(self._pieces, flat[0]))
        from kernels.delta import cpu

        return _signed(cpu.checksum_of(flat, bases))

    def verify(self) -> bool:
        """Whether the running checksum is that of the memory: reads every live element."""
        return f"{self.measure() % 2**64:016x}" == self.checksum()
