"""The wire format written for reading: a payload's bit streams as strings of 0 and 1."""

from __future__ import annotations

import torch

from kernels.compress.reference import unpack
from kernels.payload import Payload
from kernels.wire.layout import ESCAPE, GROUP, rice_parameter


def _bits(value: int, width: int) -> str:
    return format(value, "b").zfill(width)[::-1][:width] if width else ""


def _chunk_bits(payload: Payload, chunk: int) -> str:
    spec = payload.spec
    count = int(payload.counts[chunk])
    text = "1" if count == spec.slots else "0" + _bits(count, 8)
    if not count:
        return text
    indices = (payload.section(1)[chunk].to(torch.int64) | unpack(payload.section(2)[chunk], 4) << 8)[:count]
    codes = unpack(payload.section(3)[chunk], spec.quantizer.bits)
    rice = int(rice_parameter(indices[-1], torch.tensor(count)))
    text += _bits(rice, 3) + _bits(int(payload.levels[chunk]) % 2**32, 32)
    before = -1
    for index, code in zip(indices.tolist(), codes.tolist()[:count], strict=True):
        gap, before = index - before - 1, index
        if gap >> rice >= ESCAPE:
            text += "0" * ESCAPE + "1" + _bits(gap, 12)
        else:
            text += "0" * (gap >> rice) + "1" + _bits(gap, rice)
        text += _bits(code, spec.quantizer.bits)
    return text


def encode_reference(payload: Payload) -> tuple[list[int], list[int]]:
    """(words of each group, the words): the table and the streams of `payload`."""
    table, words = [], []
    for first in range(0, payload.num_chunks, GROUP):
        text = "".join(_chunk_bits(payload, chunk) for chunk in range(first, min(first + GROUP, payload.num_chunks)))
        text += "0" * (-len(text) % 32)
        table.append(len(text) // 32)
        words += [int(text[at : at + 32][::-1], 2) for at in range(0, len(text), 32)]
    return table, words
