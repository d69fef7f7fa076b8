"""Cases of `delta` (a scatter over Qwen3 0.6 B as vLLM lays it out) and `topk_logits` (10⁶ items)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kernels.bench.case import Baseline, Case, Figure
from kernels.bench.qwen3 import regions
from kernels.delta import LiveModel, ModelDelta, Region, TensorDelta
from kernels.topk_logits import topk_logits

ITEMS, WIDTH, K = 10**6, 1024, 100


def delta_of(parts: dict[str, list[Region]], share: float, *, by_rows: bool, device: str) -> ModelDelta:
    """New random values for `share` of each tensor's elements, or of its rows."""
    deltas = {}
    for name, (region, *_) in parts.items():
        rows, columns = region.shape
        if by_rows:
            chosen = torch.randperm(rows, device=device)[: max(1, int(rows * share))].sort().values
            positions = (chosen[:, None] * columns + torch.arange(columns, device=device)).view(-1)
        else:
            positions = (torch.rand(rows * columns, device=device) < share).nonzero().view(-1)
        values = torch.randn(positions.numel(), device=device).to(region.parameter.dtype)
        deltas[name] = TensorDelta(rows * columns, positions.int(), values)
    return ModelDelta.of(deltas)


def delta_cases(device: str, size: int) -> Iterator[Case]:
    """3 % and 1 % of the elements, 1 % of the rows; a memcpy of the whole beside them."""
    del size
    parts = regions(device)
    model = LiveModel(parts)
    total = sum(parameter.numel() for parameter in model.parameters)
    source = torch.zeros(total, dtype=torch.bfloat16, device=device)
    target = torch.zeros_like(source)
    goals = {"3 % at random": (0.75, 1.0), "1 % at random": (0.3, None), "1 % of rows": (None, 20.0)}
    for name, (milliseconds, times) in goals.items():
        by_rows = name.endswith("rows")
        staged = model.stage(delta_of(parts, 0.03 if name[0] == "3" else 0.01, by_rows=by_rows, device=device))
        yield Case(
            f"delta scatter {name} of {total / 1e6:.0f} M",
            lambda: model.scatter(staged),  # noqa: B023
            goal_ms=milliseconds if device == "cuda" else None,
            baselines=(
                Baseline("memcpy of the whole", lambda: target.copy_(source), times if device == "cpu" else None),
            ),
        )
    yield Case("delta checksum of the whole model", model.measure, 2.0 * total, total)


def topk_cases(device: str, size: int) -> Iterator[Case]:
    """10⁶ items, 1024 wide, K = 100, a mask in both ways; batches of 64 and 1."""
    del size
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    items = torch.empty(ITEMS, WIDTH, device=device).normal_().to(dtype)
    for rows, goal in ((64, 1.5 if device == "cuda" else 1.0), (1, None if device == "cuda" else 1.0)):
        hidden = torch.randn(rows, WIDTH, device=device).to(dtype)
        exclude = torch.rand(rows, ITEMS, device=device) < 0.001

        def library() -> object:
            return (hidden @ items.T).masked_fill_(exclude, float("-inf")).topk(K, dim=1)  # noqa: B023

        figures: dict[str, Figure] = {}
        if device == "cuda":
            share = _peak(lambda: topk_logits(hidden, items, K, exclude)) / (4 * rows * ITEMS)  # noqa: B023
            figures[f"topk_logits batch {rows} extra memory"] = (share, "of fp32 logits", 0.1, "lower")
        yield Case(
            f"topk_logits batch {rows}",
            lambda: topk_logits(hidden, items, K, exclude),  # noqa: B023
            float(items.element_size() * ITEMS * WIDTH + exclude.numel()),
            ITEMS * WIDTH,
            0.85 if rows == 1 and device == "cuda" else None,
            baselines=(Baseline("matmul + torch.topk", library, goal, 20 if device == "cuda" else 5),),
            figures=figures,
        )


def _peak(run) -> int:  # type: ignore[no-untyped-def]
    """Bytes of GPU memory `run` needs at its peak beyond what is there before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
