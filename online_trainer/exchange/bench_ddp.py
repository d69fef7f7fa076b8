"""Our synchronous exchange beside DistributedDataParallel's: step times of one model and one set of batches."""

# No postponed annotations: DDP compares a hook's with its own types.
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from online_trainer.exchange.bench_ranks import run_ranks, spawn
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.overlapped import BUCKET_BYTES, OverlappedGradients

DDP, DDP_BF16 = "ddp", "ddp, bf16 hook"
CHOSEN = "chosen"
DENSE, DENSE_AFTER, COMPRESSED = "dense", "dense, not overlapped", "compressed"
_LAYERS, _ROWS = 8, 128
_BURST = 4
"""Steps of one kind in a row; the first of them, with the caches of another, is not counted."""


@dataclass(frozen=True)
class StepTimes:
    """Of one kind of exchange.

    Attributes:
        seconds: `[S]` of each counted step, the slower rank's.
        hidden_seconds, exposed_seconds: of exchange in a step, mean over steps; NaN where torch does not tell.
    """

    seconds: np.ndarray[Any, np.dtype[np.float64]]
    hidden_seconds: float
    exposed_seconds: float
    compressed: bool | None = None
    """What was chosen by itself; None where nothing is."""

    @property
    def median(self) -> float:
        """Of the steps."""
        return float(np.median(self.seconds))


def measure_steps(
    num_elements: int,
    workers: int,
    rounds: int,
    rule: Rule | None = None,
    kinds: Sequence[str] = (),
    link_bytes_per_second: float = 0.0,
) -> dict[str, StepTimes]:
    """Train one model in `workers` processes, one thread each, with each kind of exchange in turn.

    gloo on CPUs; NCCL where there is a GPU for each worker.

    Args:
        num_elements: of the model, about.
        rounds: times that every kind has its turn, three counted steps each.
        kinds: some of this module's names; all by default.
        link_bytes_per_second: of each worker's link; 0 for plain loopback. Else a network namespace of the ranks' own
            gets a loopback of `workers` times that rate, by util-linux' unshare and iproute2's tc (Linux).

    Raises:
        RuntimeError: a rank failed, or there can be no namespace here.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = _Task(workers, num_elements, rounds, rule or Rule(), list(kinds))
        (Path(folder) / "task").write_bytes(msgspec.msgpack.encode(task))
        run_ranks(__name__, folder, workers * link_bytes_per_second)
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(workers)]
    return {
        kind: StepTimes(
            np.max([one[kind][0] for one in found], axis=0),
            float(np.mean([one[kind][1] for one in found])),
            float(np.mean([one[kind][2] for one in found])),
            found[0][kind][3],
        )
        for kind in found[0]
    }


class _Task(msgspec.Struct, frozen=True):
    workers: int
    num_elements: int
    rounds: int
    rule: Rule
    kinds: list[str]


def main(folder: str) -> int:
    """Run the ranks of the task in `folder`; the exit code."""
    task = msgspec.msgpack.decode((Path(folder) / "task").read_bytes(), type=_Task)
    return spawn(_rank, folder, task, task.workers)


def _rank(rank: int, folder: str, task: _Task) -> None:
    workers, num_elements, rounds = task.workers, task.num_elements, task.rounds
    torch.set_num_threads(1)
    cuda = torch.cuda.is_available() and torch.cuda.device_count() >= workers
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers
    )
    steps = {
        kind: make()
        for kind, make in _kinds(num_elements, task.rule, device).items()
        if kind in (task.kinds or (kind,))
    }
    width = _width(num_elements)
    inputs = torch.randn(_ROWS, width, generator=torch.Generator().manual_seed(rank)).to(device)
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(rounds):
        kinds = list(steps)
        for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
            for place in range(_BURST):
                taken = _timed(steps[kind].step, inputs, device)
                if place:
                    seconds[kind].append(taken)
    torch.save({kind: (np.array(seconds[kind]), *_exchange(one, rounds)) for kind, one in steps.items()},
               Path(folder) / f"{rank}.pt")  # fmt: skip
    dist.destroy_process_group()


@dataclass(frozen=True)
class _Kind:
    step: Callable[[Tensor], None]
    gradients: OverlappedGradients | None = None


def _exchange(kind: _Kind, rounds: int) -> tuple[float, float, bool | None]:
    if kind.gradients is None:
        return float("nan"), float("nan"), None
    overlap, steps, choice = kind.gradients.overlap, rounds * _BURST, kind.gradients.choice
    return overlap.hidden_seconds / steps, overlap.exposed_seconds / steps, choice.settled if choice else None


def _kinds(num_elements: int, rule: Rule, device: torch.device) -> dict[str, Callable[[], _Kind]]:
    torch.manual_seed(0)
    width = _width(num_elements)
    net = nn.Sequential(*(layer for _ in range(_LAYERS) for layer in (nn.Linear(width, width), nn.GELU()))).to(device)
    dense = msgspec.structs.replace(rule, compressed=False)
    compressed = msgspec.structs.replace(rule, compressed=True)
    return {
        DDP: lambda: _wrapped(net, None),
        DDP_BF16: lambda: _wrapped(net, _bf16),
        DENSE: lambda: _own(net, dense),
        DENSE_AFTER: lambda: _own(net, dense, overlap=False),
        COMPRESSED: lambda: _own(net, compressed),
        CHOSEN: lambda: _own(net, msgspec.structs.replace(rule, choose=True)),
    }


def _width(num_elements: int) -> int:
    return max(16, round((num_elements / _LAYERS) ** 0.5))


def _wrapped(net: nn.Module, hook: Any) -> _Kind:
    # The same bucket size: DDP's default of 25 MiB would hide nothing of a model this small.
    model = DistributedDataParallel(
        copy.deepcopy(net), bucket_cap_mb=BUCKET_BYTES / 2**20, gradient_as_bucket_view=True
    )
    if hook is not None:
        model.register_comm_hook(dist.group.WORLD, hook)
    return _Kind(_stepper(model, lambda: None))


def _own(net: nn.Module, rule: Rule, overlap: bool = True) -> _Kind:
    model = copy.deepcopy(net)
    gradients = OverlappedGradients(model, rule, overlap=overlap)
    return _Kind(_stepper(model, gradients.finish), gradients)


def _bf16(group: dist.ProcessGroup, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    # Under its own name DDP takes this hook with NCCL only.
    return bf16_compress_hook(group, bucket)


def _stepper(model: nn.Module, finish: Callable[[], None]) -> Callable[[Tensor], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(inputs: Tensor) -> None:
        optimizer.zero_grad(set_to_none=False)
        model(inputs).square().mean().backward()
        finish()
        optimizer.step()

    return step


def _timed(step: Callable[[Tensor], None], inputs: Tensor, device: torch.device) -> float:
    dist.barrier()
    started = time.perf_counter()
    step(inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
