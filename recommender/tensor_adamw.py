"""AdamW with one second moment a tensor: steps whose size an element's own past gradients do not decide."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class TensorAdamW(torch.optim.Optimizer):
    """As AdamW, but v is the running mean of a tensor's mean square gradient, a scalar (NovoGrad's second moment:
    Ginsburg et al. 2019, eq. 4, with the mean for the sum, so that rates are AdamW's).

    With m ← β₁ m + (1 − β₁) g and v ← β₂ v + (1 − β₂) mean(g²), both divided by 1 − βᵗ:
    w ← (1 − lr λ) w − lr m / (√v + ε).

    Under error feedback a tensor's gradient has about the norm of a whole one in every step, though each element comes
    once in tens of steps and is then as much larger: v stays what it would be, element by element it would not.

    Args:
        params: of one device each, fp32.
        betas: β₁ may be 0: then there is no momentum, and no state of the parameters' size.
    """

    EPS = 1e-8

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float], weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure: nobody here needs one
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], group["betas"], group["weight_decay"])

    def _move(self, parameter: Tensor, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        gradient, (beta1, beta2) = parameter.grad, betas
        assert gradient is not None, "looked at above"  # noqa: S101
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean_square"] = torch.zeros((), device=parameter.device)
            if beta1:
                state["exp_avg"] = torch.zeros_like(parameter)
        state["step"] += 1
        steps = float(state["step"])
        mean_square: Tensor = state["mean_square"]
        mean_square.lerp_(gradient.square().mean(), 1 - beta2)
        moved = state["exp_avg"].lerp_(gradient, 1 - beta1) if beta1 else gradient
        rate = lr / (1 - beta1**steps) / ((mean_square / (1 - beta2**steps)).sqrt() + self.EPS)
        parameter.mul_(1 - lr * weight_decay).sub_(moved * rate)
