"""One second moment a tensor: against the formula in float64, and under gradients that come seldom and large."""

from __future__ import annotations

import pytest
import torch

from recommender.tensor_adamw import TensorAdamW

LR, DECAY = 0.01, 0.1


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_it_does_what_the_formula_says(beta1: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in ((7, 5), (3,))]
    optimizer = TensorAdamW(weights, LR, (beta1, 0.98), DECAY)
    expected = [parameter.detach().double() for parameter in weights]
    moments = [torch.zeros_like(one) for one in expected]
    squares = [0.0, 0.0]
    for step in range(1, 6):
        for place, parameter in enumerate(weights):
            parameter.grad = torch.randn(parameter.shape, generator=generator) * (place + 1)
            gradient = parameter.grad.double()
            moments[place] = beta1 * moments[place] + (1 - beta1) * gradient
            squares[place] = 0.98 * squares[place] + 0.02 * float(gradient.square().mean())
            size = (squares[place] / (1 - 0.98**step)) ** 0.5 + TensorAdamW.EPS
            expected[place] = (1 - LR * DECAY) * expected[place] - LR * moments[place] / (1 - beta1**step) / size
        optimizer.step()
        for parameter, one in zip(weights, expected, strict=True):
            torch.testing.assert_close(parameter.detach(), one.float(), rtol=1e-5, atol=1e-6)
    assert all(("exp_avg" in optimizer.state[parameter]) == bool(beta1) for parameter in weights)


def test_a_gradient_that_is_saved_up_is_not_divided_away() -> None:
    """64 elements take turns: each gets in one step of 64 what the others would get in 64 steps of one."""

    def moved(kind: type, turns: bool) -> float:
        parameter = torch.nn.Parameter(torch.zeros(64))
        optimizer = kind([parameter], lr=LR, betas=(0.0, 0.98), weight_decay=0.0)
        for step in range(6 * 64):
            parameter.grad = torch.zeros(64)
            if turns:
                parameter.grad[step % 64] = 64.0
            else:
                parameter.grad += 1.0
            optimizer.step()
        return float(-parameter.detach().mean())

    # The norm of a step with one element of 64 is that of 64 elements of 8: an eighth as far.
    assert moved(TensorAdamW, turns=True) == pytest.approx(8 * LR * 6, rel=0.05)
    assert moved(TensorAdamW, turns=False) == pytest.approx(LR * 6 * 64, rel=0.01)
    # Each element's own second moment divides a rare gradient's size away.
    assert moved(torch.optim.AdamW, turns=True) < 0.75 * moved(TensorAdamW, turns=True)


def test_parameters_without_a_gradient_stay() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    TensorAdamW([parameter], LR, (0.0, 0.98), DECAY).step()
    assert torch.equal(parameter.detach(), torch.ones(3))
