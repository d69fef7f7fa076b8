"""The packed payload of a compressed gradient: what `compress` writes and every other op reads.

One `uint8` buffer, five sections, each 16-byte aligned; `C` chunks of `chunk` elements, `k` slots a chunk:

| section | bytes a chunk | what |
| --- | --- | --- |
| levels | 4 | two bf16 (low half, high half) that the quantizer decodes with |
| low | k | the low 8 bits of each in-chunk index, indices ascending |
| high | k / 2 | the high 4 bits, two to a byte, even slot in the low nibble |
| codes | k · bits / 8 | sign and level number, least significant bits first |
| counts | 1 | how many of the k slots are used; the rest are zero |

117 bytes a chunk of 4096 at 64 slots and 2 bits: 0.0286 bytes an element.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch

MAX_CHUNK = 4096
"""Indices have 12 bits."""
MAX_SLOTS = 128
"""Counts have one byte, and one Triton program holds a chunk's slots."""


class Quantizer(StrEnum):
    """How a selected value is coded; `kernels/compress/README.md` has the maths and each one's δ."""

    INT2 = "int2"
    INT4 = "int4"
    INT8 = "int8"
    FP8 = "fp8"

    @property
    def bits(self) -> int:
        """Bits of one code, sign included."""
        return {"int2": 2, "int4": 4, "int8": 8, "fp8": 8}[self.value]


@dataclass(frozen=True)
class CompressionSpec:
    """What sender and receiver must agree on.

    Attributes:
        chunk: elements a chunk, a power of two from 256 to 4096.
        slots: at most this many elements of a chunk are sent (the k of top-k), a power of two from 8 to 128.
        quantizer: how their values are coded.

    Raises:
        ValueError: a size outside these.
    """

    chunk: int = 4096
    slots: int = 64
    quantizer: Quantizer = Quantizer.INT2

    def __post_init__(self) -> None:
        if self.chunk not in (256, 512, 1024, 2048, MAX_CHUNK):
            raise ValueError(f"chunk={self.chunk}: take a power of two from 256 to {MAX_CHUNK}")
        if self.slots not in (8, 16, 32, 64, MAX_SLOTS):
            raise ValueError(f"slots={self.slots}: take a power of two from 8 to {MAX_SLOTS}")

    def num_chunks(self, num_elements: int) -> int:
        """Chunks that `num_elements` fill, the last one perhaps in part."""
        return -(-num_elements // self.chunk)

    def section_bytes(self) -> tuple[int, int, int, int, int]:
        """Bytes a chunk of levels, low, high, codes and counts."""
        return 4, self.slots, self.slots // 2, self.slots * self.quantizer.bits // 8, 1

    def offsets(self, num_chunks: int) -> tuple[int, int, int, int, int, int]:
        """Where the five sections start in the buffer, and its size; all multiples of 16."""
        starts = [0]
        for width in self.section_bytes():
            starts.append(starts[-1] + -(-num_chunks * width // 16) * 16)
        return tuple(starts)  # type: ignore[return-value]


@dataclass(frozen=True)
class Payload:
    """A compressed flat tensor of `num_elements`.

    Attributes:
        spec: how it was compressed.
        num_elements: of the tensor it stands for.
        buffer: uint8, `spec.offsets(C)[-1]` bytes, contiguous; the only thing to send.
    """

    spec: CompressionSpec
    num_elements: int
    buffer: torch.Tensor

    def __post_init__(self) -> None:
        expected = self.spec.offsets(self.num_chunks)[-1]
        if self.buffer.dtype != torch.uint8 or self.buffer.shape != (expected,):
            raise ValueError(
                f"a payload of {self.num_elements} elements has a uint8 buffer of {expected} bytes, "
                f"not {self.buffer.dtype} {tuple(self.buffer.shape)}: do both sides use the same CompressionSpec?"
            )

    @classmethod
    def empty(cls, num_elements: int, spec: CompressionSpec, device: torch.device | str = "cpu") -> Payload:
        """An unwritten payload: every op that takes it as an output writes all of it but the alignment gaps."""
        size = spec.offsets(spec.num_chunks(num_elements))[-1]
        return cls(spec, num_elements, torch.empty(size, dtype=torch.uint8, device=device))

    @property
    def num_chunks(self) -> int:
        """Chunks it has."""
        return self.spec.num_chunks(self.num_elements)

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffer, alignment gaps included."""
        return self.buffer.numel()

    def section(self, index: int) -> torch.Tensor:
        """Section `index` (see the module's table) as `[C, bytes a chunk]` uint8, a view."""
        start, width = self.spec.offsets(self.num_chunks)[index], self.spec.section_bytes()[index]
        return self.buffer[start : start + self.num_chunks * width].view(self.num_chunks, width)

    @property
    def levels(self) -> torch.Tensor:
        """`[C]` int32, a view: two bf16 patterns a chunk."""
        return self.section(0).reshape(-1).view(torch.int32)

    @property
    def counts(self) -> torch.Tensor:
        """`[C]` uint8, a view: used slots a chunk."""
        return self.section(4).reshape(-1)
