"""An update becomes bytes and comes back: compressed with error feedback, or bf16 with the rounding kept likewise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels import wire
from kernels.compress import compress
from kernels.decompress_accumulate import decompress_accumulate
from kernels.payload import CompressionSpec, Payload, Quantizer
from online_trainer.exchange.messages import Encoding, Rule
from online_trainer.exchange.tensor_bytes import from_bytes, to_bytes


class Encoded(NamedTuple):
    """Bytes to send, how they are written, and how many elements were not finite and counted as zero."""

    encoding: Encoding
    data: bytes
    nonfinite: int


class DamagedUpdate(ValueError):
    """Bytes that are no update of the range they are for."""


def spec_of(rule: Rule) -> CompressionSpec:
    """The rule's compression."""
    return CompressionSpec(rule.chunk, rule.slots, Quantizer(rule.quantizer))


def encode(update: Tensor, residual: Tensor, rule: Rule) -> Encoded:
    """Send what `rule` lets through of `update + residual` `[n]` fp32; `residual` keeps exactly the rest."""
    if not update.numel():
        return Encoded(Encoding.NONE, b"", 0)
    if not rule.compressed:
        return _encode_dense(update, residual)
    compressed = compress(update, residual, spec_of(rule))
    return Encoded(Encoding.COMPRESSED, to_bytes(wire.encode(compressed.payload)), int(compressed.nonfinite))


def add(encoding: Encoding, data: bytes, weight: float, out: Tensor) -> None:
    """out `[n]` += weight · decoded, bit for bit the same on every replica.

    Raises:
        DamagedUpdate: not an update of `n` elements; `out` is as it was.
    """
    if encoding is Encoding.NONE or not out.numel():
        return
    if encoding is Encoding.DENSE:
        out.add_(_dense(data, out.numel()), alpha=weight)
        return
    decompress_accumulate([_payload(data, out.numel())], out, [weight], accumulate=True)


def warm_up(rule: Rule) -> None:
    """Load or compile the kernels, so that the first push does not wait for them (seconds on a busy machine)."""
    update = torch.linspace(-1, 1, rule.chunk)
    encoded = encode(update, torch.zeros_like(update), rule)
    add(encoded.encoding, encoded.data, 1.0, update)


def check(encoding: Encoding, data: bytes, num_elements: int) -> None:
    """Raises DamagedUpdate unless `add` will take it."""
    if encoding is Encoding.NONE or not num_elements:
        if data:
            raise DamagedUpdate(f"{len(data)} bytes where nothing is meant")
    elif encoding is Encoding.COMPRESSED:
        _payload(data, num_elements)
    else:
        _dense(data, num_elements)


def _encode_dense(update: Tensor, residual: Tensor) -> Encoded:
    bad = 0
    # One pass; a sum that is not finite is rare enough to look twice.
    if not bool(torch.isfinite(update.sum())):
        wrong = ~torch.isfinite(update)
        bad = int(wrong.sum())
        update = update.masked_fill(wrong, 0.0)
    residual.add_(update)
    sent = residual.bfloat16()
    residual.sub_(sent)
    return Encoded(Encoding.DENSE, to_bytes(sent), bad)


def _payload(data: bytes, num_elements: int) -> Payload:
    try:
        payload = wire.decode(data)
    except wire.WireError as error:
        raise DamagedUpdate(str(error)) from error
    if payload.num_elements != num_elements:
        raise DamagedUpdate(f"an update of {payload.num_elements} elements where {num_elements} are meant")
    return payload


def _dense(data: bytes, num_elements: int) -> Tensor:
    if len(data) != 2 * num_elements:
        raise DamagedUpdate(f"{len(data)} bytes where {num_elements} bf16 elements are meant")
    return from_bytes(data, torch.bfloat16)
