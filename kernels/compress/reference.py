"""`compress` written for reading: plain PyTorch, one step a line, float64 where a sum is taken."""

from __future__ import annotations

import torch

from kernels.payload import CompressionSpec, Payload, Quantizer

_LARGEST_BF16 = 0x7F7F


def compress_reference(
    gradient: torch.Tensor, residual: torch.Tensor, spec: CompressionSpec
) -> tuple[Payload, torch.Tensor, int]:
    """Payload, new residual `[n]` fp32 and how many non-finite elements counted as zero.

    Args:
        gradient: `[n]` bf16 or fp32.
        residual: `[n]` fp32, left alone.
        spec: chunk, slots, quantizer.
    """
    total = gradient.float() + residual
    bad = ~torch.isfinite(total)
    total = torch.where(bad, torch.nan_to_num(residual, 0.0, 0.0, 0.0), total)
    payload = Payload.empty(total.numel(), spec)
    payload.buffer.zero_()
    sent = torch.zeros_like(total)
    for chunk in range(payload.num_chunks):
        start = chunk * spec.chunk
        sent[start : start + spec.chunk] = _encode(total[start : start + spec.chunk], payload, chunk)
    return payload, total - sent, int(bad.sum())


def _encode(values: torch.Tensor, payload: Payload, chunk: int) -> torch.Tensor:
    """Write `values` as chunk `chunk` of `payload`; returns what the receiver will decode, same shape."""
    spec = payload.spec
    order = torch.argsort(values.abs(), descending=True, stable=True)[: spec.slots]
    index = order[values[order] != 0].sort().values
    sent = torch.zeros_like(values)
    count = index.numel()
    payload.counts[chunk] = count
    if count:
        codes, levels, decoded = quantize(values[index], spec.quantizer)
        payload.levels[chunk] = levels
        sent[index] = decoded
        padded = torch.zeros(2, spec.slots, dtype=torch.int64)
        padded[0, :count], padded[1, :count] = index, codes
        payload.section(1)[chunk] = (padded[0] & 255).to(torch.uint8)
        payload.section(2)[chunk] = pack(padded[0] >> 8, 4)
        payload.section(3)[chunk] = pack(padded[1], spec.quantizer.bits)
    return sent


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """`[k]` codes below 2^bits as `[k · bits / 8]` bytes, the first code in the lowest bits."""
    groups = codes.view(-1, 8 // bits)
    return (groups << (torch.arange(8 // bits) * bits)).sum(1).to(torch.uint8)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `pack`, over the last axis: `[…, k · bits / 8]` uint8 → `[…, k]` int64."""
    shifted = packed.to(torch.int64)[..., None] >> (torch.arange(8 // bits) * bits)
    return (shifted & (2**bits - 1)).flatten(-2)


def to_bf16(value: torch.Tensor, *, nearest: bool) -> int:
    """The pattern of `value` ≥ 0 as bf16: to nearest (never to infinity) or towards zero."""
    pattern = int(value.float().view(torch.int32))
    return min((pattern + 0x8000 * nearest) >> 16, _LARGEST_BF16)


def from_bf16(pattern: int) -> torch.Tensor:
    """A bf16 pattern as an fp32 scalar."""
    return torch.tensor(pattern << 16, dtype=torch.int32).view(torch.float32)


def quantize(values: torch.Tensor, quantizer: Quantizer) -> tuple[torch.Tensor, int, torch.Tensor]:
    """Codes `[m]`, the chunk's levels word and the decoded values `[m]` of non-zero `values` `[m]`."""
    magnitude = values.abs()
    smallest, largest = magnitude.min(), magnitude.max()
    if quantizer is Quantizer.INT2:
        upper = magnitude >= smallest * 0.5 + largest * 0.5
        lower = magnitude[~upper] if (~upper).any() else magnitude
        levels = to_bf16(lower.double().mean(), nearest=True)
        levels |= to_bf16(magnitude[upper].double().mean(), nearest=True) << 16
        number = upper.to(torch.int64)
    elif quantizer is Quantizer.FP8:
        exponent = max(int(largest.view(torch.int32)) >> 23, 8) - 7
        levels = exponent << 7
        number = _to_e4m3(magnitude / from_bf16(levels))
    else:
        top = 2 ** (quantizer.bits - 1) - 1
        low = to_bf16(smallest, nearest=False)
        step = to_bf16((largest - from_bf16(low)) / top, nearest=False)
        levels = low | step << 16
        number = ((magnitude.double() - from_bf16(low)) / from_bf16(step).clamp_min(1e-45)).round().clamp(0, top)
        number = number.to(torch.int64)
    negative = (values < 0).to(torch.int64)
    codes = number | negative << 7 if quantizer is Quantizer.FP8 else negative | number << 1
    return codes, levels, dequantize(codes, torch.tensor(levels), quantizer)


def _to_e4m3(scaled: torch.Tensor) -> torch.Tensor:
    # 240 is the largest below 256: rounding a value near the end of fp32 up to 256 would decode to infinity.
    return scaled.clamp(max=240.0).to(torch.float8_e4m3fn).view(torch.uint8).to(torch.int64)


def dequantize(codes: torch.Tensor, levels: torch.Tensor, quantizer: Quantizer) -> torch.Tensor:
    """fp32 values of `codes`; `levels` (int) broadcasts against them. Every product here is exact in fp32."""
    levels = levels.to(torch.int64)
    low = (levels << 16).to(torch.int32).view(torch.float32)
    high = (levels & 0xFFFF0000).to(torch.int32).view(torch.float32)
    if quantizer is Quantizer.FP8:
        return codes.to(torch.uint8).view(torch.float8_e4m3fn).float() * low
    number = codes >> 1
    magnitude = torch.where(number == 1, high, low) if quantizer is Quantizer.INT2 else low + number.float() * high
    return torch.where(codes & 1 == 1, -magnitude, magnitude)
