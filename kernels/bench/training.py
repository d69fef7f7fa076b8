"""Cases of `apply`: AdamW from one payload, and the lazy variant on 1 % of the rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.apply import AdamSettings, AdamState, apply_adam, apply_lazy_adamw
from kernels.bench.case import Baseline, Case
from kernels.bench.compression import PAYLOAD_BYTES, random_payload, sizes
from kernels.decompress_accumulate import decompress_accumulate

_SETTINGS = AdamSettings(weight_decay=0.01)
_COLUMNS = 1024


def apply_cases(device: str, size: int) -> Iterator[Case]:
    """Dense sizes, then 1 % of the rows of the largest."""
    for elements in sizes(size):
        payload, state = random_payload(elements, device), AdamState.fresh(torch.randn(elements, device=device))
        baselines: tuple[Baseline, ...] = ()
        if elements == size:
            baselines = (
                Baseline("decompress, then eager AdamW", _eager(payload, state), 4, 20 if device == "cuda" else 3),
            )
        yield Case(
            f"apply AdamW {elements:.0e}",
            lambda: apply_adam([payload], state, _SETTINGS, 3),  # noqa: B023
            (26 + PAYLOAD_BYTES) * elements,
            elements,
            0.85 if device == "cuda" else 0.7,
            baselines=baselines,
        )
    rows = size // _COLUMNS
    wide = AdamState.fresh(state.master[: rows * _COLUMNS].view(rows, _COLUMNS))
    touched = torch.randperm(rows, device=device)[: max(1, rows // 100)].sort().values
    gradient = torch.randn(touched.numel(), _COLUMNS, device=device)
    last = torch.zeros(rows, dtype=torch.int32, device=device)
    yield Case(
        f"apply lazy AdamW, 1 % of rows of {size:.0e}",
        lambda: apply_lazy_adamw(touched, gradient, wide, last, _SETTINGS, 3),
        30.0 * touched.numel() * _COLUMNS,
        touched.numel() * _COLUMNS,
        0.7 if device == "cuda" else 0.5,
    )


def _eager(payload, state):  # type: ignore[no-untyped-def]
    """A dense gradient buffer, then AdamW tensor by tensor."""
    gradient = torch.empty_like(state.master)

    def run() -> None:
        decompress_accumulate([payload], gradient)
        rate, root = _SETTINGS.scalars(3)[2:4]
        state.exp_avg.mul_(0.9).add_(gradient, alpha=0.1)
        state.exp_avg_sq.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        denominator = state.exp_avg_sq.sqrt().mul_(root).add_(1e-8)
        state.master.mul_(1 - 1e-5).addcdiv_(state.exp_avg, denominator, value=-rate)
        state.copy.copy_(state.master)

    return run
