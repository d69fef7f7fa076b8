"""Losses for next-item prediction over a catalogue, on states and item rows; each a mean over the targets.

All take `states [E, D]`, `rows [I, D]` (the output embedding of the items) and `targets [E]`, in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, logsigmoid


def full_softmax(states: Tensor, rows: Tensor, targets: Tensor, without: Tensor | None = None) -> Tensor:
    """Cross-entropy over the whole catalogue, or over what is left of it.

    Args:
        without: `[E, I]` bool, items that do not compete; no target may be one.
    """
    logits = linear(states, rows).float()
    return cross_entropy(logits if without is None else logits.masked_fill(without, -torch.inf), targets)


def sampled_softmax(
    states: Tensor,
    rows: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_q: Tensor | None = None,
    without: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the target and `negatives [N]`, which all targets share.

    A negative that is the target itself is left out, and so are those in `without [E, N]` bool. With `log_q [I]`, the
    log-probability by which negatives are drawn, logits are corrected by it (Bengio & Senécal 2008; Yi et al., RecSys
    2019), so that the expectation is that of the full softmax; without, popular negatives are punished for being drawn
    often.
    """
    positive = (states * rows[targets]).sum(dim=1, keepdim=True).float()
    negative = linear(states, rows[negatives]).float()
    if log_q is not None:
        positive = positive - log_q[targets][:, None]
        negative = negative - log_q[negatives][None, :]
    left_out = negatives[None, :] == targets[:, None]
    negative = negative.masked_fill(left_out if without is None else left_out | without, -torch.inf)
    logits = torch.cat([positive, negative], dim=1)
    return cross_entropy(logits, torch.zeros_like(targets))


def binary(states: Tensor, rows: Tensor, targets: Tensor, negatives: Tensor, beta: float = 1.0) -> Tensor:
    """Binary cross-entropy of the target against its own `negatives [E, N]`; -1 marks a negative that does not count.

    SASRec's loss (Kang & McAuley, ICDM 2018) is N = 1 and `beta` = 1; gBCE (Petrov & Macdonald, RecSys 2023) raises
    the positive's probability to `beta` = `gbce_beta(...)`.
    """
    positive = (states * rows[targets]).sum(dim=1).float()
    negative = torch.einsum("ed,end->en", states, rows[negatives.clamp(min=0)]).float()
    counts = negatives >= 0
    return -(beta * logsigmoid(positive) + (logsigmoid(-negative) * counts).sum(dim=1)).mean()


def gbce_beta(num_items: int, num_negatives: int, t: float) -> float:
    """The power of gBCE: α (t (1 - 1/α) + 1/α) with α = N / (I - 1); t = 0 gives plain BCE, t = 1 calibrates fully."""
    alpha = num_negatives / (num_items - 1)
    return alpha * (t * (1 - 1 / alpha) + 1 / alpha)
