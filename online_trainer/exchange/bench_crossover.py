"""Where compressing begins to pay: one synchronous exchange, dense and compressed in turn, on links of several rates.

The exchange is `OverlappedGradients` with nothing to hide behind, so that a time is the exchange's own, and what the
ranks choose by themselves is chosen by the code that trains.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
import torch.distributed as dist
from torch import nn

from online_trainer.exchange import payloads
from online_trainer.exchange.bench_ranks import run_ranks, spawn
from online_trainer.exchange.choice import EncodingChoice, lower_quartile
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.overlapped import OverlappedGradients

_WARM = 5


class Exchanged(msgspec.Struct, frozen=True):
    """Of one encoding on one link: lower quartiles in seconds, as the choice goes by, of the slower rank.

    Attributes:
        total_seconds: from the gradient to the mean of all ranks'.
        encode_seconds, decode_seconds: its parts, all ranks at once; every payload is decoded, dense the sum alone.
    """

    total_seconds: float
    encode_seconds: float
    decode_seconds: float

    @property
    def link_seconds(self) -> float:
        """The rest: sockets, the link, waiting for the other rank."""
        return max(0.0, self.total_seconds - self.encode_seconds - self.decode_seconds)


class Link(msgspec.Struct, frozen=True):
    """One link's exchanges, and what the ranks chose on it: None where they have not."""

    gigabits: float
    dense: Exchanged
    compressed: Exchanged
    chosen_compressed: bool | None

    @property
    def gain(self) -> float:
        """Dense over compressed."""
        return self.dense.total_seconds / self.compressed.total_seconds

    @property
    def lost(self) -> float:
        """What was chosen over the faster one; 1 where they are the same."""
        chosen = self.compressed if self.chosen_compressed else self.dense
        return chosen.total_seconds / min(self.dense.total_seconds, self.compressed.total_seconds)


class _Task(msgspec.Struct, frozen=True):
    workers: int
    num_elements: int
    turns: int
    rule: Rule


def measure_link(num_elements: int, workers: int, turns: int, rule: Rule, gigabits: float) -> Link:
    """Exchange `turns` times with either encoding in turn, in `workers` gloo processes of one thread each.

    Args:
        gigabits: of each worker's link, in Gb/s, by `bench_ranks.capped`; 0 for plain loopback.

    Raises:
        RuntimeError: a rank failed, or there can be no network namespace here.
    """
    with tempfile.TemporaryDirectory() as folder:
        task = _Task(workers, num_elements, turns, rule)
        (Path(folder) / "task").write_bytes(msgspec.msgpack.encode(task))
        run_ranks(__name__, folder, workers * gigabits * 1e9 / 8)
        ranks = [
            msgspec.msgpack.decode((Path(folder) / f"{rank}").read_bytes(), type=_Found) for rank in range(workers)
        ]
    return Link(
        gigabits,
        _slowest([found.dense for found in ranks]),
        _slowest([found.compressed for found in ranks]),
        ranks[0].chosen_compressed,
    )


def crossover_gigabits(links: Sequence[Link]) -> float | None:
    """The rate at which both take as long: where the difference, a straight line over 1 / rate, changes its sign.

    None where one encoding is the faster on every link.
    """
    points = sorted(
        (1 / link.gigabits if link.gigabits else 0.0, link.dense.total_seconds - link.compressed.total_seconds)
        for link in links
    )
    for (first, before), (second, after) in itertools.pairwise(points):
        if before < 0 <= after:
            place = first + (second - first) * before / (before - after)
            return 1 / place if place else float("inf")
    return None


@dataclass
class _Timed:
    totals: list[float]
    encodes: list[float]
    decodes: list[float]

    def exchanged(self) -> Exchanged:
        return Exchanged(*(lower_quartile(found) for found in (self.totals, self.encodes, self.decodes)))


class _Found(msgspec.Struct, frozen=True):
    dense: Exchanged
    compressed: Exchanged
    chosen_compressed: bool | None


def _slowest(found: Sequence[Exchanged]) -> Exchanged:
    return max(found, key=lambda exchanged: exchanged.total_seconds)


def main(folder: str) -> int:
    """Run the ranks of the task in `folder`; the exit code."""
    task = msgspec.msgpack.decode((Path(folder) / "task").read_bytes(), type=_Task)
    return spawn(_rank, folder, task, task.workers)


def _rank(rank: int, folder: str, task: _Task) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=task.workers)
    torch.manual_seed(rank)
    gradient = torch.randn(task.num_elements)
    rules = {kind: msgspec.structs.replace(task.rule, compressed=kind, choose=False) for kind in (False, True)}
    exchanges = {kind: _exchange(rule, gradient) for kind, rule in rules.items()}
    timed = {kind: _Timed([], [], []) for kind in rules}
    for turn in range(_WARM + task.turns):
        # In turn, so that what else the machine does falls on both.
        for kind in (False, True) if turn % 2 else (True, False):
            dist.barrier()
            found = exchanges[kind][1](), *_parts(gradient, rules[kind], task.workers)
            if turn >= _WARM:
                timed[kind].totals.append(found[0])
                timed[kind].encodes.append(found[1])
                timed[kind].decodes.append(found[2])
    chosen = _chosen(msgspec.structs.replace(task.rule, choose=True), gradient)
    found_here = _Found(timed[False].exchanged(), timed[True].exchanged(), chosen)
    (Path(folder) / f"{rank}").write_bytes(msgspec.msgpack.encode(found_here))
    dist.barrier()
    dist.destroy_process_group()


def _exchange(rule: Rule, gradient: torch.Tensor) -> tuple[OverlappedGradients, Callable[[], float]]:
    """What exchanges `gradient` once, and tells the seconds."""
    model, weight = nn.Module(), nn.Parameter(torch.zeros_like(gradient))
    model.register_parameter("weight", weight)
    gradients = OverlappedGradients(model, rule, bucket_bytes=4 * gradient.numel(), overlap=False)

    def once() -> float:
        weight.grad = None
        (weight * gradient).sum().backward()
        started = time.perf_counter()
        gradients.finish()
        return time.perf_counter() - started

    return gradients, once


def _parts(gradient: torch.Tensor, rule: Rule, workers: int) -> tuple[float, float]:
    """Seconds of encoding and of decoding what an exchange encodes and decodes, without one."""
    residual, out = torch.zeros_like(gradient), torch.zeros_like(gradient)
    started = time.perf_counter()
    encoded = payloads.encode(gradient, residual, rule)
    between = time.perf_counter()
    for _ in range(workers if rule.compressed else 1):
        payloads.add(encoded.encoding, encoded.data, 1.0, out)
    return between - started, time.perf_counter() - between


def _chosen(rule: Rule, gradient: torch.Tensor) -> bool | None:
    gradients, once = _exchange(rule, gradient)
    assert gradients.choice is not None, "the rule says so"  # noqa: S101
    for _ in range((2 * EncodingChoice.PASSES + 1) * EncodingChoice.TRIES):
        dist.barrier()
        once()
    return gradients.choice.settled


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
