"""Optimizer steps from payloads: against float64, against torch.optim, and the lazy variant's catch-up."""

from __future__ import annotations

import pytest
import torch

from kernels.apply import AdamSettings, AdamState, apply_adam, apply_lazy_adamw, apply_sgd
from kernels.apply.reference import adam_reference, lazy_adamw_reference, sgd_reference
from kernels.compress import CompressionSpec, Payload, compress
from kernels.decompress_accumulate.reference import decompress_accumulate_reference

SPEC = CompressionSpec(chunk=256, slots=16)


def payload_of(size: int, seed: int, device: str) -> Payload:
    gradient = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return compress(gradient.to(device), torch.zeros(size, device=device), SPEC).payload


def dense(payloads: list[Payload], weights: list[float]) -> torch.Tensor:
    size = payloads[0].num_elements
    moved = [Payload(p.spec, p.num_elements, p.buffer.cpu()) for p in payloads]
    return decompress_accumulate_reference(moved, weights, torch.zeros(size), accumulate=False)


def state_of(shape: tuple[int, ...], device: str) -> AdamState:
    generator = torch.Generator().manual_seed(3)
    state = AdamState.fresh(torch.randn(shape, generator=generator).to(device))
    state.exp_avg.copy_(torch.randn(shape, generator=generator))
    state.exp_avg_sq.copy_(torch.rand(shape, generator=generator))
    return state


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu().double() - expected).norm() / expected.norm().clamp_min(1e-30))


def assert_copy_follows(state_master: torch.Tensor, copy: torch.Tensor) -> None:
    # Triton's interpreter truncates where the hardware rounds: one unit in the last of 8 bits either way.
    torch.testing.assert_close(copy.float(), state_master, rtol=2**-7, atol=0)


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("size", [1, 256, 700])
@pytest.mark.parametrize("peers", [1, 3])
def test_adam_equals_float64(peers: int, size: int, decoupled: bool, device: str) -> None:
    payloads = [payload_of(size, seed, device) for seed in range(peers)]
    weights = [0.5 + seed for seed in range(peers)]
    settings = AdamSettings(weight_decay=0.1, decoupled=decoupled)
    state = state_of((size,), device)
    before = [t.cpu().double() for t in (state.master, state.exp_avg, state.exp_avg_sq)]
    expected = adam_reference(*before, dense(payloads, weights).double(), settings, 7)
    apply_adam(payloads, state, settings, 7, weights)
    for found, wanted in zip((state.master, state.exp_avg, state.exp_avg_sq), expected, strict=True):
        assert relative(found, wanted) < 1e-6
    assert state.copy is not None
    assert_copy_follows(state.master, state.copy)


def test_adamw_walks_with_torch(device: str) -> None:
    size = 600
    settings = AdamSettings(learning_rate=0.01, weight_decay=0.05)
    state = AdamState.fresh(torch.randn(size, generator=torch.Generator().manual_seed(1)).to(device), with_copy=False)
    theirs = torch.nn.Parameter(state.master.cpu().clone())
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.05)
    for step in range(1, 6):
        payload = payload_of(size, step, device)
        theirs.grad = dense([payload], [1.0])
        optimizer.step()
        apply_adam([payload], state, settings, step)
    assert relative(state.master, theirs.detach().double()) < 1e-6


def test_sgd_equals_float64(device: str) -> None:
    payloads = [payload_of(700, seed, device) for seed in range(2)]
    master = torch.randn(700, generator=torch.Generator().manual_seed(1)).to(device)
    copy = master.bfloat16()
    expected = sgd_reference(master.cpu().double(), dense(payloads, [1.0, 2.0]).double(), 0.1, 0.01)
    apply_sgd(payloads, master, copy, 0.1, 0.01, [1.0, 2.0])
    assert relative(master, expected) < 1e-6
    assert_copy_follows(master, copy)


def test_the_copy_rounds_to_nearest_and_keeps_nan(sizes, device: str) -> None:  # type: ignore[no-untyped-def]
    if sizes.slow:
        pytest.skip("the interpreter's bf16 conversion truncates")
    master = torch.tensor([1.00390625, 1.01171875, float("nan"), -1.00390625, 3.4e38], device=device)
    copy = torch.empty(5, dtype=torch.bfloat16, device=device)
    apply_sgd([payload_of(5, 1, device)], master, copy, 0.0)
    assert torch.equal(copy.isnan().cpu(), torch.tensor([False, False, True, False, False]))
    assert torch.equal(copy.nan_to_num(0), master.bfloat16().nan_to_num(0))


@pytest.mark.parametrize("columns", [1, 33, 96])
def test_lazy_adamw_equals_float64(columns: int, device: str) -> None:
    settings = AdamSettings(weight_decay=0.1)
    state = state_of((40, columns), device)
    last = torch.arange(40, dtype=torch.int32) % 9
    rows = torch.tensor([3, 39, 0, 17, 22])
    gradient = torch.randn(5, columns, generator=torch.Generator().manual_seed(4))
    before = [t.cpu().double() for t in (state.master, state.exp_avg, state.exp_avg_sq)]
    expected = lazy_adamw_reference(*before, last, rows, gradient.double(), settings, 12)
    mine = last.to(device)
    apply_lazy_adamw(rows.to(device), gradient.to(device), state, mine, settings, 12)
    for found, wanted in zip((state.master, state.exp_avg, state.exp_avg_sq), expected, strict=False):
        assert relative(found, wanted) < 2e-6
    assert torch.equal(mine.cpu(), expected[3])
    untouched = [row for row in range(40) if row not in rows]
    assert torch.equal(state.master.cpu()[untouched].double(), before[0][untouched])


def test_lazy_adamw_touched_every_step_is_adamw(device: str) -> None:
    settings = AdamSettings(weight_decay=0.1)
    lazy, other = state_of((4, 64), device), state_of((4, 64), device)
    last = torch.full((4,), 4, dtype=torch.int32, device=device)
    payload = payload_of(256, 1, device)
    gradient = dense([payload], [1.0]).view(4, 64).to(device)
    apply_lazy_adamw(torch.arange(4, device=device), gradient, lazy, last, settings, 5)
    apply_adam([payload], other, settings, 5)
    torch.testing.assert_close(lazy.master, other.master, rtol=1e-6, atol=1e-7)


def test_refuses_bad_input_with_the_mend(device: str) -> None:
    state, payload = state_of((300,), device), payload_of(300, 1, device)
    with pytest.raises(ValueError, match="steps count from 1"):
        apply_adam([payload], state, AdamSettings(), 0)
    with pytest.raises(ValueError, match="payload 0 stands for 256 elements, not 300"):
        apply_adam([payload_of(256, 1, device)], state, AdamSettings(), 1)
    with pytest.raises(ValueError, match="take 1e-8"):
        AdamSettings(epsilon=0)
    with pytest.raises(ValueError, match=r"beta1=1\.0"):
        AdamSettings(beta1=1.0)
    rows = torch.zeros(1, dtype=torch.int64, device=device)
    last = torch.zeros(300, dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match=r"decoupled=True"):
        apply_lazy_adamw(
            rows, torch.zeros(1, 1, device=device), state_of((300, 1), device), last, AdamSettings(decoupled=False), 1
        )
    with pytest.raises(ValueError, match="it should be"):
        apply_lazy_adamw(rows, torch.zeros(2, 1, device=device), state_of((300, 1), device), last, AdamSettings(), 1)
