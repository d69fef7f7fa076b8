"""Units of work that a process can take: one trial, or one final run. Described by plain values, so they travel.

With `jobs` > 1 they run in as many processes side by side: one small model never fills a GPU.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from catalogue.datasets import Dataset, load
from evaluation.choices import Protocol, try_settings
from evaluation.goals import methods
from evaluation.runs import Run, execute

OnText = Callable[[str], None]
OnProgress = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """What is done.

    Attributes:
        dataset, data: name, and where it lies (None: where `catalogue.datasets.load` looks).
        method: name. settings: to try, or chosen.
        seed: of a final run; None for a trial.
        threads: CPU threads; 0 leaves it to torch.
    """

    dataset: str
    data: Path | None
    protocol: Protocol
    method: str
    settings: Mapping[str, Any]
    seed: int | None
    folder: Path
    device: str
    threads: int = 0

    @property
    def title(self) -> str:
        """What a person reads."""
        return f"{self.method}, " + ("a trial" if self.seed is None else f"seed {self.seed}")


@lru_cache(maxsize=1)
def _load(name: str, path: Path | None) -> Dataset:
    return load(name, path)


def perform(
    task: Task, on_text: OnText = lambda text: None, on_progress: OnProgress = lambda events: None
) -> dict[str, Any]:
    """Do it: a trial's result (see `choices.Choices`), or nothing for a run, which leaves files."""
    if task.threads:
        torch.set_num_threads(task.threads)
    dataset, device = _load(task.dataset, task.data), torch.device(task.device)
    if device.type == "cuda":
        # TF32 for everyone: a model 1,024 wide is bound by fp32 products otherwise.
        torch.set_float32_matmul_precision("high")
    method = next(m for m in methods(dataset, task.protocol) if m.name == task.method)
    if task.seed is None:
        return try_settings(method, dict(task.settings), dataset, task.protocol, device, on_text)
    run = Run(dataset, task.protocol, method, task.settings, task.seed, task.folder)
    execute(run, device, on_text, on_progress)
    return {}


def perform_all(
    tasks: Sequence[Task], jobs: int, on_text: OnText, on_progress: OnProgress
) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Results as they come, each with its task; over all GPUs where tasks say `cuda`. An exception in one ends all."""
    if jobs == 1 or len(tasks) < 2:
        for number, task in enumerate(tasks, 1):
            titled = _titled(f"{number} of {len(tasks)}, {task.title}", on_text)
            yield task, perform(task, titled, on_progress)
        return
    # CUDA does not survive a fork.
    with ProcessPoolExecutor(min(jobs, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        placed = spread(tasks, torch.cuda.device_count())
        futures = {pool.submit(perform, there): task for there, task in zip(placed, tasks, strict=True)}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                on_text(f"{number} of {len(tasks)}, {futures[future].title}")
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def spread(tasks: Sequence[Task], gpus: int) -> list[Task]:
    """The tasks for `cuda` on one GPU after the other."""
    return [
        replace(task, device=f"cuda:{number % gpus}") if task.device == "cuda" and gpus else task
        for number, task in enumerate(tasks)
    ]


def _titled(title: str, on_text: OnText) -> OnText:
    on_text(title)
    return lambda text: on_text(f"{title}: {text}")
