"""Cases of `apply`: AdamW from one payload (and from eight on a GPU), and the lazy variant on 1 % of the rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.apply import AdamSettings, AdamState, apply_adam, apply_lazy_adamw
from kernels.bench.case import Baseline, Case
from kernels.bench.compression import PAYLOAD_BYTES, eager_decompress, random_payload, sizes
from kernels.decompress_accumulate import decompress_accumulate

_SETTINGS = AdamSettings(weight_decay=0.01)
_COLUMNS = 1024


def apply_cases(device: str, size: int) -> Iterator[Case]:
    """Dense sizes, then 1 % of the rows of the largest."""
    for elements in sizes(size):
        payloads = [random_payload(elements, device) for _ in range(8 if device == "cuda" else 1)]
        state = AdamState.fresh(torch.randn(elements, device=device))
        for peers in sorted({1, len(payloads)}):
            given = payloads[:peers]
            baselines: tuple[Baseline, ...] = ()
            if elements == size and peers == 1:
                # At 10⁹ a GPU's copy of the fused step's bytes takes 3.7 times less than this: no goal there.
                baselines = (
                    Baseline(
                        "decompress, then eager AdamW",
                        _eager(given, state, decompress_accumulate),
                        None if device == "cuda" else 4,
                        20 if device == "cuda" else 3,
                    ),
                )
            elif elements == size:
                baselines = (Baseline("eager", _eager(given, state, eager_decompress), 4),)
            yield Case(
                f"apply AdamW {'' if peers == 1 else f'W={peers} '}{elements:.0e}",
                lambda: apply_adam(given, state, _SETTINGS, 3),  # noqa: B023
                (26 + peers * PAYLOAD_BYTES) * elements,
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


def _eager(payloads, state, decompress):  # type: ignore[no-untyped-def]
    """A dense gradient buffer, then AdamW tensor by tensor."""
    gradient = torch.empty_like(state.master)

    def run() -> None:
        decompress(payloads, gradient)
        rate, root = _SETTINGS.scalars(3)[2:4]
        state.exp_avg.mul_(0.9).add_(gradient, alpha=0.1)
        state.exp_avg_sq.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        denominator = state.exp_avg_sq.sqrt().mul_(root).add_(1e-8)
        state.master.mul_(1 - 1e-5).addcdiv_(state.exp_avg, denominator, value=-rate)
        state.copy.copy_(state.master)

    return run
