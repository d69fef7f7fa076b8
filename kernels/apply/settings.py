"""What an optimizer step needs beside its gradient: settings, and the state it changes in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.checks import require, require_size


@dataclass(frozen=True)
class AdamSettings:
    """Adam or AdamW.

    Attributes:
        learning_rate: α.
        beta1, beta2: decay of the first and second moment a step.
        epsilon: added to the root of the second moment.
        weight_decay: λ; times the weight it is added to the gradient (Adam) or taken off the weight (AdamW).
        decoupled: AdamW when true, Adam with L2 otherwise.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 < self.beta2 < 1):
            raise ValueError(f"beta1={self.beta1}, beta2={self.beta2}: both lie in [0, 1), beta2 above 0")
        if self.epsilon <= 0:
            raise ValueError(f"epsilon={self.epsilon}: an untouched element would divide 0 by 0; take 1e-8")

    def scalars(self, step: int) -> tuple[float, float, float, float, float, float, float]:
        """(β1, β2, α / (1 − β1ᵗ), 1 / √(1 − β2ᵗ), ε, weight factor, L2 factor) of step t ≥ 1, for the kernels."""
        if step < 1:
            raise ValueError(f"step={step}: steps count from 1")
        decay = self.learning_rate * self.weight_decay
        return (
            self.beta1,
            self.beta2,
            self.learning_rate / (1 - self.beta1**step),
            (1 - self.beta2**step) ** -0.5,
            self.epsilon,
            1 - decay if self.decoupled else 1.0,
            0.0 if self.decoupled else self.weight_decay,
        )


@dataclass(frozen=True)
class AdamState:
    """Weights and moments, changed in place.

    Attributes:
        master: fp32, any contiguous shape.
        copy: bf16 of the same size, kept equal to `master` rounded; None to keep none.
        exp_avg, exp_avg_sq: fp32, first and second moment.
    """

    master: torch.Tensor
    copy: torch.Tensor | None
    exp_avg: torch.Tensor
    exp_avg_sq: torch.Tensor

    @classmethod
    def fresh(cls, master: torch.Tensor, *, with_copy: bool = True) -> AdamState:
        """Zero moments (and a bf16 copy) for `master`."""
        copy = master.to(torch.bfloat16) if with_copy else None
        return cls(master, copy, torch.zeros_like(master), torch.zeros_like(master))

    def check(self) -> None:
        """Raises TypeError or ValueError unless dtypes, sizes, devices and layouts fit."""
        require(self.master, "master", (torch.float32,))
        for name, tensor in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            require(tensor, name, (torch.float32,), like=self.master)
            require_size(tensor, name, self.master.numel())
        if self.copy is not None:
            require(self.copy, "copy", (torch.bfloat16,), like=self.master)
            require_size(self.copy, "copy", self.master.numel())
