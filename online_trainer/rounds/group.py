"""What the ranks of a group tell one another beside gradients: small words, bytes, votes. By gloo, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist

P = ParamSpec("P")
T = TypeVar("T")


class RankLost(Exception):
    """Another rank is gone or hangs; the group has ended and starts again from its last checkpoint."""


class GroupDiffers(Exception):
    """Ranks that should hold the same do not; the text says which."""


class RankGroup:
    """One rank's end of the default process group. For one thread; every rank makes the same calls in the same order.

    Args:
        meeting: where ranks find one another, as `torch.distributed.init_process_group` takes it.
        patience_seconds: how long a rank may keep the others waiting before it counts as hung.
        device: `cuda` gives each rank the GPU of its number, and gradients go by NCCL.

    Raises:
        RankLost: from every call.
    """

    def __init__(self, rank: int, size: int, meeting: str, patience_seconds: float, device: str = "cpu") -> None:
        self.rank, self.size = rank, size
        self.device = torch.device(device, rank) if device == "cuda" else torch.device(device)
        backend = "gloo"
        if self.device.type == "cuda":
            if torch.cuda.device_count() < size:
                raise GroupDiffers(f"{size} workers on {torch.cuda.device_count()} GPUs: give each one of its own")
            torch.cuda.set_device(self.device)
            backend = "cpu:gloo,cuda:nccl"
        checked(dist.init_process_group)(
            backend, init_method=meeting, rank=rank, world_size=size, timeout=timedelta(seconds=patience_seconds)
        )

    def tell(self, word: Sequence[float]) -> list[list[float]]:
        """Every rank's word, by rank; all have one length."""
        return checked(self._tell)(word)

    def gather(self, data: bytes) -> list[bytes]:
        """Every rank's bytes, by rank."""
        return checked(self._gather)(data)

    def least(self, value: int) -> int:
        """The smallest value that a rank has given."""
        return int(min(word[0] for word in self.tell([value])))

    def must_agree(self, what: str, value: int) -> None:
        """Raises GroupDiffers, naming ranks, unless all have given one `value` (below 2⁵³)."""
        values = [int(word[0]) for word in self.tell([value])]
        if len(set(values)) > 1:
            found = ", ".join(f"rank {rank}: {value}" for rank, value in enumerate(values))
            raise GroupDiffers(
                f"the ranks differ in {what} ({found}): give all the same model, settings, number of threads and kind "
                "of processor"
            )

    def close(self) -> None:
        """Leave."""
        dist.destroy_process_group()

    def _tell(self, word: Sequence[float]) -> list[list[float]]:
        own = torch.tensor(word, dtype=torch.float64)
        words = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(words, own)
        return [found.tolist() for found in words]

    def _gather(self, data: bytes) -> list[bytes]:
        sizes = [int(word[0]) for word in self._tell([len(data)])]
        own = torch.zeros(max(1, *sizes), dtype=torch.uint8)
        own[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else own[:0]
        everyone = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(everyone, own)
        return [bytes(found[:size].numpy()) for found, size in zip(everyone, sizes, strict=True)]


def checked(call: Callable[P, T]) -> Callable[P, T]:
    """`call`, its backend's errors as RankLost."""

    def wrapped(*given: P.args, **named: P.kwargs) -> T:
        try:
            return call(*given, **named)
        except RuntimeError as error:
            raise RankLost(f"another worker of the group is gone: {error}") from error

    return wrapped
