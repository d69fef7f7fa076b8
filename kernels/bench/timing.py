"""Medians over repeated runs, with what lies in the caches flushed between them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one case: median, 20th and 80th percentile, and of how many runs."""

    median: float
    p20: float
    p80: float
    runs: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> Timing:
        """From the runs' times."""
        ordered = sorted(milliseconds)
        last = len(ordered) - 1
        return cls(statistics.median(ordered), ordered[round(last * 0.2)], ordered[round(last * 0.8)], len(ordered))


def time_case(run: Callable[[], object], device: str, runs: int = 20, warm_up: int = 3) -> Timing:
    """Run `run` a few times unmeasured, then `runs` times measured."""
    return _time_cuda(run, runs, warm_up) if device == "cuda" else _time_cpu(run, runs, min(warm_up, 1))


def _time_cuda(run: Callable[[], object], runs: int, warm_up: int) -> Timing:
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    for _ in range(warm_up):
        run()
    starts = [torch.cuda.Event(enable_timing=True) for _ in range(runs)]
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(runs)]
    for start, end in zip(starts, ends, strict=True):
        flush.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return Timing.of([start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)])


def _time_cpu(run: Callable[[], object], runs: int, warm_up: int) -> Timing:
    # Read, not written: dirty lines would go back to memory while the run is timed.
    flush = torch.ones(_FLUSH_BYTES // 4)
    for _ in range(warm_up):
        run()
    times = []
    for _ in range(runs):
        flush.sum()
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e3)
    return Timing.of(times)


def copy_bandwidth(device: str, elements: int) -> float:
    """Bytes a second of a copy of `elements` fp32, read and written bytes counted."""
    source = torch.empty(elements, device=device).normal_()
    target = torch.empty_like(source)
    return 8 * elements / (time_case(lambda: target.copy_(source), device).median * 1e-3)
