"""Compression: equal to its reference, exact in what it promises, contractive, and robust to bad input."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from kernels.compress import CompressionSpec, Payload, Quantizer, compress
from kernels.compress.reference import compress_reference
from kernels.decompress_accumulate import decompress_accumulate, return_to_residual
from kernels.decompress_accumulate.reference import decode_reference

DELTA = {Quantizer.INT2: 0.26, Quantizer.INT4: 0.67, Quantizer.INT8: 0.98, Quantizer.FP8: 0.98}
"""Least share of the selected energy that each quantizer keeps (README); δ = this · k / chunk, or this alone where
all non-zero elements fit."""


def on_cpu(payload: Payload) -> Payload:
    return Payload(payload.spec, payload.num_elements, payload.buffer.cpu())


def drawn(kind: str, size: int, seed: int) -> torch.Tensor:
    """A gradient `[size]` fp32 of one kind."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(size, generator=generator)
    return {
        "normal": lambda: normal,
        "heavy": lambda: normal / torch.rand(size, generator=generator) ** 2,
        "ties": lambda: torch.randint(-2, 3, (size,), generator=generator).float(),
        "equal": lambda: torch.ones(size),
        "sparse": lambda: normal * (torch.rand(size, generator=generator) < 0.01),
        "zero": lambda: torch.zeros(size),
        "outlier": lambda: torch.where(torch.arange(size) % 97 == 3, 1e6, normal),
        "tiny": lambda: normal * 1e-41,
        "huge": lambda: (normal * 1e38).clamp(-3.4e38, 3.4e38),
    }[kind]()


KINDS = ["normal", "heavy", "ties", "equal", "sparse", "zero", "outlier", "tiny", "huge"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference(kind: str, quantizer: Quantizer, device: str) -> None:
    spec = CompressionSpec(chunk=256, slots=8, quantizer=quantizer)
    gradient, residual = drawn(kind, 700, 1), drawn("normal", 700, 2) * (0.1 if kind == "normal" else 0)
    expected, left, _ = compress_reference(gradient, residual, spec)
    mine = residual.clone().to(device)
    payload = on_cpu(compress(gradient.to(device), mine, spec).payload)
    for section in (1, 2, 4):
        assert torch.equal(payload.section(section), expected.section(section)), f"section {section}"
    # Levels and codes may differ in the last bit of a mean or a rounding tie; what is decoded may not differ more.
    scale = float(gradient.double().norm()) or 1.0
    error = (decode_reference(payload).double() - decode_reference(expected).double()).norm() / scale
    assert error <= {Quantizer.INT2: 2**-8, Quantizer.INT4: 2**-8}.get(quantizer, 2**-7)
    assert (mine.cpu().double() - left.double()).norm() / scale <= 2**-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 63, 255, 256, 257, 4096, 9001])
def test_odd_sizes_and_dtypes(size: int, dtype: torch.dtype, device: str) -> None:
    spec = CompressionSpec() if size >= 4096 else CompressionSpec(chunk=256, slots=8)
    gradient = drawn("normal", size, 3).to(dtype)
    residual = drawn("normal", size, 4)
    expected, left, _ = compress_reference(gradient, residual, spec)
    mine = residual.clone().to(device)
    payload = on_cpu(compress(gradient.to(device), mine, spec).payload)
    assert torch.equal(payload.section(1), expected.section(1)) and torch.equal(payload.counts, expected.counts)
    torch.testing.assert_close(mine.cpu(), left, rtol=2**-7, atol=2**-7)
    assert torch.equal(mine.cpu(), gradient.float() + residual - decode_reference(payload))


@given(
    values=st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=300),
    seed=st.integers(0, 2**16),
    quantizer=st.sampled_from(list(Quantizer)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_nothing_is_lost(values: list[float], seed: int, quantizer: Quantizer, dtype: torch.dtype, device: str) -> None:
    spec = CompressionSpec(chunk=256, slots=8, quantizer=quantizer)
    gradient = torch.tensor(values, dtype=torch.float32).to(dtype)
    residual = drawn("heavy", len(values), seed)
    total = gradient.float() + residual
    bad = ~torch.isfinite(total)
    total = torch.where(bad, residual, total)
    mine = residual.clone().to(device)
    result = compress(gradient.to(device), mine, spec)
    sent = decompress_accumulate([result.payload], torch.full((len(values),), 7.0, device=device))
    assert int(result.nonfinite) == int(bad.sum())
    assert torch.equal(mine.cpu(), total - sent.cpu())
    assert torch.isfinite(mine).all()


def test_selects_the_largest_with_ties_by_index(device: str) -> None:
    gradient = torch.ones(256, device=device)
    gradient[200] = -2
    payload = on_cpu(compress(gradient, torch.zeros(256, device=device), CompressionSpec(chunk=256, slots=8)).payload)
    assert decode_reference(payload).nonzero().view(-1).tolist() == [0, 1, 2, 3, 4, 5, 6, 200]


def test_chunks_of_other_scales_follow_one_another(device: str) -> None:
    """What did for the chunk before says nothing about the next: zeros, ties, a thousandth, a million times, few."""
    spec, kinds = (
        CompressionSpec(chunk=256, slots=8),
        ("normal", "zero", "ties", "normal", "sparse", "outlier", "equal"),
    )
    scales = (1.0, 1.0, 1.0, 1e-3, 1e6, 1.0, 1.0)
    chunks = [drawn(kind, 256, seed) * scales[seed % 7] for seed, kind in enumerate(kinds * 3)]
    gradient, residual = torch.cat(chunks), torch.zeros(256 * len(chunks))
    expected, _, _ = compress_reference(gradient, residual, spec)
    mine = residual.to(device)
    payload = on_cpu(compress(gradient.to(device), mine, spec).payload)
    for section in (1, 2, 4):
        assert torch.equal(payload.section(section), expected.section(section)), f"section {section}"
    assert torch.equal(mine.cpu(), gradient - decode_reference(payload))


def test_an_untouched_row_stays_untouched(device: str) -> None:
    gradient = torch.zeros(1024, device=device)
    gradient[300:303] = torch.tensor([1.0, -1.0, 4.0])
    payload = on_cpu(compress(gradient, torch.zeros(1024, device=device), CompressionSpec(chunk=256, slots=8)).payload)
    assert payload.counts.tolist() == [0, 3, 0, 0]
    assert decode_reference(payload).nonzero().view(-1).tolist() == [300, 301, 302]


@pytest.mark.parametrize("kind", ["normal", "heavy", "outlier", "ties", "sparse"])
def test_contracts(kind: str, quantizer: Quantizer, device: str) -> None:
    spec = CompressionSpec(chunk=256, slots=64, quantizer=quantizer)
    for seed in range(2):
        values = drawn(kind, 1024, seed)
        residual = torch.zeros(1024, device=device)
        compress(values.to(device), residual, spec)
        left = residual.cpu().double().view(-1, 256).square().sum(1)
        energy = values.double().view(-1, 256).square().sum(1)
        few = (values.view(-1, 256) != 0).sum(1) <= spec.slots
        share = torch.where(few, DELTA[quantizer], DELTA[quantizer] * spec.slots / spec.chunk)
        assert (left <= (1 - share) * energy + 1e-30).all(), kind


def test_residuals_stay_bounded_over_ten_thousand_heavy_tailed_steps(quantizer: Quantizer, device: str, sizes) -> None:  # type: ignore[no-untyped-def]
    spec = CompressionSpec(chunk=256, slots=32, quantizer=quantizer)
    steps = 20 if sizes.slow else 10_000
    generator = torch.Generator().manual_seed(5)
    residual = torch.zeros(256, device=device)
    out = Payload.empty(256, spec, device)
    largest, norms = 0.0, []
    tails = torch.randn(steps, 256, generator=generator) / torch.rand(steps, 1, generator=generator).clamp_min(1e-3)
    for step in range(steps):
        largest = max(largest, float(tails[step].norm()))
        compress(tails[step].to(device), residual, out=out)
        if step % 100 == 0 or sizes.slow:
            norms.append(float(residual.norm()))
    share = DELTA[quantizer] * spec.slots / spec.chunk
    # ‖e‖ ≤ √(1 − δ) (‖e‖ + G) at every step sums to this (Karimireddy et al. 2019, lemma 3).
    bound = largest * (1 - share) ** 0.5 / (1 - (1 - share) ** 0.5)
    assert max(norms) <= bound
    if not sizes.slow:
        assert np.mean(norms[-len(norms) // 4 :]) <= 2 * np.mean(norms[len(norms) // 4 : len(norms) // 2])


def test_repeats_exactly(device: str) -> None:
    gradient, residual = drawn("heavy", 3000, 1).to(device), drawn("normal", 3000, 2).to(device)
    runs = []
    for _ in range(3):
        mine = residual.clone()
        payload = compress(gradient, mine, CompressionSpec(chunk=512, slots=16)).payload
        runs.append([*(payload.section(number).clone() for number in range(5)), mine])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


def test_a_refused_payload_returns_to_the_residual(device: str) -> None:
    gradient = drawn("normal", 1000, 1).to(device)
    residual = torch.zeros(1000, device=device)
    payload = compress(gradient, residual, CompressionSpec(chunk=256, slots=16)).payload
    return_to_residual(payload, residual)
    torch.testing.assert_close(residual, gradient, rtol=1e-6, atol=1e-6)


def test_offsets_past_two_to_the_thirty_first_are_whole() -> None:
    spec = CompressionSpec()
    chunks = spec.num_chunks(3 * 2**31)
    offsets = spec.offsets(chunks)
    assert chunks == 3 * 2**19 and all(offset % 16 == 0 for offset in offsets)
    assert offsets[-1] == chunks * 117
    large = spec.offsets(spec.num_chunks(2**40))
    assert large[1] == 4 * 2**28 and large[-1] == 117 * 2**28


def test_refuses_bad_input_with_the_mend(device: str) -> None:
    good = torch.zeros(512, device=device)
    with pytest.raises(ValueError, match=r"gradient is not contiguous.*call \.contiguous\(\)"):
        compress(torch.zeros(1024, device=device)[::2], good)
    with pytest.raises(TypeError, match="gradient is float64: convert it to bfloat16 or float32"):
        compress(good.double(), good)
    with pytest.raises(TypeError, match="residual is bfloat16: convert it to float32"):
        compress(good, good.bfloat16())
    with pytest.raises(ValueError, match="residual has 511 elements where 512 are needed"):
        compress(good, good[:511].clone())
    with pytest.raises(ValueError, match="make it with this spec"):
        compress(good, good.clone(), CompressionSpec(), out=Payload.empty(511, CompressionSpec(), device))
    with pytest.raises(ValueError, match="chunk=100: take a power of two"):
        CompressionSpec(chunk=100)
    with pytest.raises(ValueError, match="slots=7: take a power of two"):
        CompressionSpec(slots=7)
    with pytest.raises(ValueError, match="do both sides use the same CompressionSpec"):
        Payload(CompressionSpec(), 4096, torch.zeros(3, dtype=torch.uint8))
