"""The wire format, version 1: what stands where, and the two formulas both ends share.

| part | bytes | what |
| --- | --- | --- |
| header | 32 | `<4sBBBBQIIQ`: `SLPW`, version, quantizer, log2 chunk, slots, elements, groups, words, checksum |
| table | 2 a group, padded to 4 | 32-bit words of each group of 8 chunks |
| words | 4 each | the groups' bit streams, least significant bit first, each from a word's start |

A chunk: 1 bit "all slots used", else 0 and 8 bits of count; if any, 3 bits of b and 32 bits of levels; then each slot
as its gap to the one before in a Golomb–Rice code (Rice & Plaunt 1971): quotient q = gap >> b in unary (q zeros,
a one), b bits of remainder, then the code's bits. q ≥ 16 is sent as 16 zeros, a one and the gap in 12 bits.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch

from kernels.payload import CompressionSpec, Quantizer

MAGIC, VERSION = b"SLPW", 1
HEADER = struct.Struct("<4sBBBBQIIQ")
HEADER_FACTORS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xBF58476D1CE4E5B9)
"""What the header's first three 64-bit words are multiplied with in its part of the checksum."""
GROUP = 8
"""Chunks a bit stream: one thread's work, and 2 bytes of table."""
ESCAPE = 16
"""Quotient from which a gap is sent as it is."""
QUANTIZERS = (Quantizer.INT2, Quantizer.INT4, Quantizer.INT8, Quantizer.FP8)


class WireError(ValueError):
    """Bytes that are not a payload: too short, another version, or a checksum that differs."""


@dataclass(frozen=True)
class Header:
    """What stands before the groups.

    Attributes:
        spec, num_elements: of the payload.
        words: 32-bit words after the table.
        checksum: Σ coefficient(i) · word(i) mod 2⁶⁴ over the table and the words, and the header's own words with it.
    """

    spec: CompressionSpec
    num_elements: int
    words: int
    checksum: int

    @property
    def groups(self) -> int:
        """Bit streams."""
        return -(-self.spec.num_chunks(self.num_elements) // GROUP)

    @property
    def table_bytes(self) -> int:
        """Bytes of the table, padded to whole words."""
        return -(-self.groups * 2 // 4) * 4

    @property
    def size(self) -> int:
        """Bytes of the whole message."""
        return HEADER.size + self.table_bytes + 4 * self.words

    def pack(self) -> bytes:
        """The 32 bytes."""
        spec = self.spec
        number = QUANTIZERS.index(spec.quantizer)
        log_chunk = spec.chunk.bit_length() - 1
        return HEADER.pack(
            MAGIC, VERSION, number, log_chunk, spec.slots, self.num_elements, self.groups, self.words, self.checksum
        )

    @classmethod
    def unpack(cls, data: bytes) -> Header:
        """Read the 32 bytes.

        Raises:
            WireError: not this format or version, or sizes that contradict one another.
        """
        if len(data) < HEADER.size:
            raise WireError(f"{len(data)} bytes: a payload has a header of {HEADER.size}")
        magic, version, number, log_chunk, slots, elements, groups, words, checksum = HEADER.unpack(data[: HEADER.size])
        if magic != MAGIC:
            raise WireError(f"starts with {magic!r}, not {MAGIC!r}: these bytes are no payload")
        if version != VERSION:
            raise WireError(f"wire format {version}: this reader knows {VERSION}; update the older side")
        if number >= len(QUANTIZERS):
            raise WireError(f"quantizer number {number}: this reader knows 0 to {len(QUANTIZERS) - 1}")
        try:
            header = cls(CompressionSpec(1 << log_chunk, slots, QUANTIZERS[number]), elements, words, checksum)
        except ValueError as error:
            raise WireError(f"header of a payload that can't be: {error}") from error
        if header.groups != groups:
            raise WireError(f"{groups} groups where {elements} elements make {header.groups}: damaged header")
        return header


def header_sum(header: bytes) -> int:
    """The header's own part of the checksum: its 24 bytes before the checksum field."""
    total = 0
    for word, factor in zip(struct.unpack("<QQQ", header[:24]), HEADER_FACTORS, strict=True):
        total ^= word * factor % 2**64
    return total


def signed(word: int) -> int:
    """`word` mod 2⁶⁴ as an int64 holds it."""
    return (word + 2**63) % 2**64 - 2**63


def check_sums(header: Header, checksum: int, words: int) -> None:
    """Refuse a message whose bytes or whose table are not what its header says.

    Raises:
        WireError: with both numbers.
    """
    if checksum != header.checksum:
        raise WireError(f"checksum {checksum:016x}, the header says {header.checksum:016x}: damaged, ask for it again")
    if words != header.words:
        raise WireError(f"the table counts {words} words, the header {header.words}")


def most_words(spec: CompressionSpec, num_chunks: int) -> int:
    """A bound on the words of any message, so that the device can write before the host knows the length.

    With n slots, D the sum of their gaps and 2ᵇ > 177 D / 512 n (or b = 7), the quotients q = gap >> b add up to at
    most 2.9 n (or 32). A slot takes q + b + 1 bits and its code; an escape, of which there is at most one for every
    16 of Σ q, at most 12 more: 1.75 Σ q + 8 n and the codes in all, and 44 bits of the chunk's own.
    """
    bits = 44 + spec.slots * (8 + spec.quantizer.bits) + math.ceil(1.75 * max(2.9 * spec.slots, 32))
    return -(-num_chunks // GROUP) * -(-GROUP * bits // 32)


def rice_parameter(last: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """b of chunks whose last index is `last` and that use `count` > 0 slots: ⌊log2(ln 2 · mean gap)⌋, 0 to 7."""
    mean = (last + 1 - count) * 177 // (256 * count)
    return torch.floor(torch.log2(mean.clamp(1, 255).double())).to(torch.int64)
