"""Decompression: bit-equal to its reference whatever the number of peers, the weights and the quantizer."""

from __future__ import annotations

import pytest
import torch

from kernels.compress import CompressionSpec, Payload, Quantizer, compress
from kernels.decompress_accumulate import decompress_accumulate
from kernels.decompress_accumulate.reference import decompress_accumulate_reference


def payloads_of(count: int, size: int, spec: CompressionSpec, device: str) -> list[Payload]:
    """Payloads that collide on many indices: the same few rows are large for every peer."""
    generator = torch.Generator().manual_seed(size + count)
    scale = 1 + 9 * (torch.arange(size) % 13 == 0)
    found = []
    for _ in range(count):
        gradient = torch.randn(size, generator=generator) * scale
        found.append(compress(gradient.to(device), torch.zeros(size, device=device), spec).payload)
    return found


def on_cpu(payloads: list[Payload]) -> list[Payload]:
    return [Payload(payload.spec, payload.num_elements, payload.buffer.cpu()) for payload in payloads]


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("peers", [1, 3, 8, 17])
def test_equals_the_reference_bit_for_bit(peers: int, accumulate: bool, quantizer: Quantizer, device: str) -> None:
    spec = CompressionSpec(chunk=256, slots=16, quantizer=quantizer)
    payloads = payloads_of(peers, 700, spec, device)
    weights = [(-1) ** peer * 0.3 * (peer + 1) for peer in range(peers)]
    out = torch.randn(700)
    expected = decompress_accumulate_reference(on_cpu(payloads), weights, out, accumulate=accumulate)
    target = out.to(device) if accumulate else torch.full((700,), float("nan"), device=device)
    assert torch.equal(decompress_accumulate(payloads, target, weights, accumulate=accumulate).cpu(), expected)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 4095, 8193])
def test_odd_sizes(size: int, device: str) -> None:
    spec = CompressionSpec() if size > 1000 else CompressionSpec(chunk=256, slots=8)
    payloads = payloads_of(2, size, spec, device)
    out = torch.full((size,), float("nan"), device=device)
    expected = decompress_accumulate_reference(on_cpu(payloads), [1.0, 1.0], torch.zeros(size), accumulate=False)
    assert torch.equal(decompress_accumulate(payloads, out).cpu(), expected)


def test_sixty_four_peers_and_no_more(small_spec: CompressionSpec, device: str) -> None:
    payloads = payloads_of(1, 300, small_spec, device) * 64
    out = torch.zeros(300, device=device)
    decompress_accumulate(payloads, out, [1 / 64] * 64)
    single = decompress_accumulate(payloads[:1], torch.zeros(300, device=device))
    torch.testing.assert_close(out, single, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match="65 payloads: give 1 to 64"):
        decompress_accumulate([*payloads, payloads[0]], out)
    with pytest.raises(ValueError, match="0 payloads"):
        decompress_accumulate([], out)


def test_refuses_bad_input_with_the_mend(small_spec: CompressionSpec, device: str) -> None:
    payloads = payloads_of(1, 300, small_spec, device)
    with pytest.raises(ValueError, match="payload 0 stands for 300 elements, not 299"):
        decompress_accumulate(payloads, torch.zeros(299, device=device))
    with pytest.raises(ValueError, match="out is not contiguous"):
        decompress_accumulate(payloads, torch.zeros(600, device=device)[::2])
    other = payloads_of(1, 300, CompressionSpec(chunk=256, slots=16), device)
    with pytest.raises(ValueError, match="one spec a call"):
        decompress_accumulate([*payloads, *other], torch.zeros(300, device=device))
    with pytest.raises(ValueError, match="weights has 2 elements where 1 are needed"):
        decompress_accumulate(payloads, torch.zeros(300, device=device), [1.0, 2.0])
