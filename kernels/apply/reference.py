"""Optimizer steps written for reading, in float64 where the caller's tensors are float64."""

from __future__ import annotations

import torch

from kernels.apply.settings import AdamSettings


def sgd_reference(
    master: torch.Tensor, gradient: torch.Tensor, learning_rate: float, weight_decay: float
) -> torch.Tensor:
    """p − lr · (g + λ p), `[n]`."""
    return master - learning_rate * (gradient + weight_decay * master)


def adam_reference(
    master: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    gradient: torch.Tensor,
    settings: AdamSettings,
    step: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """New (p, m, v) after step number `step` (from 1): Kingma & Ba 2015, or AdamW (Loshchilov & Hutter 2019)."""
    beta1, beta2 = settings.beta1, settings.beta2
    if settings.decoupled:
        master = master * (1 - settings.learning_rate * settings.weight_decay)
    else:
        gradient = gradient + settings.weight_decay * master
    exp_avg = beta1 * exp_avg + (1 - beta1) * gradient
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * gradient**2
    mean = exp_avg / (1 - beta1**step)
    deviation = (exp_avg_sq / (1 - beta2**step)).sqrt() + settings.epsilon
    return master - settings.learning_rate * mean / deviation, exp_avg, exp_avg_sq


def lazy_adamw_reference(
    master: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    last_step: torch.Tensor,
    rows: torch.Tensor,
    gradient: torch.Tensor,
    settings: AdamSettings,
    step: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """New (p, m, v) `[N, D]` and last_step `[N]`; only `rows` `[R]` change, by `gradient` `[R, D]`."""
    missed = (step - 1 - last_step[rows]).to(master.dtype)[:, None]
    decay = 1 - settings.learning_rate * settings.weight_decay
    new = adam_reference(
        master[rows] * decay**missed,
        exp_avg[rows] * settings.beta1**missed,
        exp_avg_sq[rows] * settings.beta2**missed,
        gradient,
        settings,
        step,
    )
    result = [master.clone(), exp_avg.clone(), exp_avg_sq.clone(), last_step.clone()]
    for tensor, value in zip(result[:3], new, strict=True):
        tensor[rows] = value
    result[3][rows] = step
    return tuple(result)  # type: ignore[return-value]
