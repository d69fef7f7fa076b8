"""`OverlappedGradients`: the mean of gradients over ranks, bucket by bucket, while backward goes on.

What `DistributedDataParallel` does in C++, for a model that is not wrapped: a bucket is encoded and on its way as soon
as its last gradient is there. Dense bf16 or compressed with error feedback, as the rule says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from online_trainer.exchange.choice import EncodingChoice
from online_trainer.exchange.collectives import Group, compressed_mean, dense_mean
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.payloads import spec_of

BUCKET_BYTES = 4 * 2**20
"""Of fp32 gradients. Smaller ones start earlier and cost one collective each; DDP's 25 MiB leave a small model one
bucket, which nothing hides."""


class Overlap(NamedTuple):
    """Seconds of exchange: those that backward hid, those that `finish` waited, and the encoding within backward."""

    hidden_seconds: float
    exposed_seconds: float
    encode_seconds: float


@dataclass
class _Bucket:
    """Gradients that travel together: `flat` `[n]` fp32 holds them, each parameter's as a view."""

    parameters: list[nn.Parameter]
    flat: Tensor
    residual: Tensor | None
    missing: int = 0
    started: float = 0.0
    encoded: float = 0.0
    done: float = 0.0
    mean: torch.futures.Future[Tensor] | None = None
    views: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.missing = len(self.parameters)
        sizes = [parameter.numel() for parameter in self.parameters]
        parts = zip(self.flat.split(sizes), self.parameters, strict=True)
        self.views = [part.view(parameter.shape) for part, parameter in parts]


class OverlappedGradients:
    """For one thread and one model; every rank makes its own with the same rule.

        gradients = OverlappedGradients(model, rule)
        loss.backward()      # buckets leave as they fill
        gradients.finish()   # every parameter's .grad is the mean over ranks
        optimizer.step()

    One backward a step. Parameters without a gradient count as zero. After `finish` every rank holds the same bits, and
    the same as without `overlap`: a bucket's mean depends on the bucket alone.

    Args:
        model: on one device, fp32; ranks start from the same weights.
        rule: `compressed`, `choose`, `chunk`, `slots`, `quantizer` are used.
        group: the process group; None for the default one. gloo on CPUs, NCCL on GPUs.
        bucket_bytes: of a bucket's gradients, about.
        overlap: False exchanges everything in `finish`, for comparison.

    Raises:
        TypeError: a parameter that is not fp32.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        group: Group = None,
        bucket_bytes: int = BUCKET_BYTES,
        overlap: bool = True,
    ) -> None:
        self._rule = rule
        self._group = group
        self._overlap = overlap
        self._spec = spec_of(rule)
        self.choice = EncodingChoice(rule.compressed) if rule.choose else None
        """With `Rule.choose`: the same on every rank, by the slowest one's encoding and waiting in each step tried."""
        self._compressed = rule.compressed
        # Backward reaches the last layers first.
        parameters = [p for p in reversed(list(model.parameters())) if p.requires_grad]
        if wrong := [p.dtype for p in parameters if p.dtype != torch.float32]:
            raise TypeError(f"a parameter is {wrong[0]}: gradients are exchanged as fp32, load the model as float32")
        self._buckets = [self._bucket(found) for found in _cut(parameters, bucket_bytes)]
        self._nonfinite: Tensor | int = 0
        self.sent_bytes = 0
        """Payload bytes so far, to all others."""
        self._next = 0
        """First bucket that has not left: ranks must start collectives in one order."""
        self._overlapped = Overlap(0.0, 0.0, 0.0)
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._hook(bucket, view))
            for bucket in self._buckets
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True)
        ]

    @property
    def overlap(self) -> Overlap:
        """So far. Hidden: while a bucket was on its way and `finish` had not begun; time that two buckets share is
        counted once."""
        return self._overlapped

    @property
    def compressed(self) -> bool:
        """How the next step's gradients go; set it between two steps, alike on every rank."""
        return self._compressed

    @compressed.setter
    def compressed(self, compressed: bool) -> None:
        if compressed and any(bucket.residual is None for bucket in self._buckets):
            raise ValueError("this rule sends dense gradients alone; make the rule compress or choose")
        self._compressed = compressed

    def residuals(self) -> dict[str, Tensor]:
        """What this rank has not sent, `[n]` fp32 of each bucket by its number, sharing memory; none for dense."""
        kept = {f"bucket.{number}": bucket.residual for number, bucket in enumerate(self._buckets)}
        return {name: residual for name, residual in kept.items() if residual is not None}

    def load_residuals(self, residuals: Mapping[str, Tensor]) -> None:
        """Become what `residuals` gave.

        Raises:
            ValueError: of another model, rule or bucket size; nothing has changed.
        """
        own = self.residuals()
        if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in residuals.items()}:
            raise ValueError("the residuals are of another model or rule; go on with the one that wrote them")
        for name, residual in own.items():
            residual.copy_(residuals[name])

    def residual_norm(self) -> float:
        """L2 norm of what this rank has not sent; 0 for dense."""
        norms = [bucket.residual.norm() for bucket in self._buckets if bucket.residual is not None]
        return float(torch.stack(norms).norm()) if norms else 0.0

    @property
    def nonfinite(self) -> int:
        """Gradient elements that were not finite and counted as zero, so far; dense gradients go as they are."""
        return int(self._nonfinite)

    def finish(self) -> None:
        """Send what has not left, wait for every bucket, and leave the means in `.grad`. Call it after each backward.

        Raises:
            RuntimeError: a rank is gone; the group has ended.
        """
        asked = time.perf_counter()
        for bucket in self._buckets[self._next :]:
            self._start(bucket)
        for bucket in self._buckets:
            assert bucket.mean is not None, "started above"  # noqa: S101
            bucket.mean.wait()
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                parameter.grad = view
        self._measure(asked, time.perf_counter())
        for bucket in self._buckets:
            bucket.mean, bucket.missing = None, len(bucket.parameters)
        self._next = 0

    def close(self) -> None:
        """Let the model go: its backward sends nothing any more."""
        for hook in self._hooks:
            hook.remove()

    def _bucket(self, parameters: list[nn.Parameter]) -> _Bucket:
        flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        return _Bucket(parameters, flat, torch.zeros_like(flat) if self._rule.compressed or self._rule.choose else None)

    def _hook(self, bucket: _Bucket, view: Tensor) -> Callable[[Tensor], None]:
        def take(parameter: Tensor) -> None:
            assert parameter.grad is not None, "called behind the accumulation"  # noqa: S101
            if parameter.grad.data_ptr() != view.data_ptr():
                # `zero_grad` has let go of the view: autograd made a tensor of its own.
                view.copy_(parameter.grad)
                parameter.grad = view
            bucket.missing -= 1
            if self._overlap:
                self._start_full()

        return take

    def _start_full(self) -> None:
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._start(self._buckets[self._next])
            self._next += 1

    def _start(self, bucket: _Bucket) -> None:
        if bucket.missing:
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                if parameter.grad is None:
                    view.zero_()
        bucket.started = time.perf_counter()
        if self._compressed:
            assert bucket.residual is not None, "made for a rule that may compress"  # noqa: S101
            mean = compressed_mean(bucket.flat, bucket.residual, self._spec, self._group, self._count, bucket.flat)
        else:
            if bucket.residual is not None:
                # What compression kept back before dense was chosen goes along, once.
                bucket.flat.add_(bucket.residual)
                bucket.residual.zero_()
            mean = dense_mean(bucket.flat, self._group, bucket.flat)
        self.sent_bytes += self._wire_bytes(bucket)
        bucket.encoded = time.perf_counter()

        def note(future: torch.futures.Future[Tensor]) -> Tensor:
            bucket.done = time.perf_counter()
            return future.value()

        bucket.mean = mean.then(note)

    def _count(self, nonfinite: Tensor) -> None:
        self._nonfinite = self._nonfinite + nonfinite

    def _wire_bytes(self, bucket: _Bucket) -> int:
        """What a rank sends of a bucket: a ring's share of dense sums, its payload to every other."""
        size, elements = dist.get_world_size(self._group), bucket.flat.numel()
        if self._compressed:
            return (size - 1) * self._spec.offsets(self._spec.num_chunks(elements))[-1]
        return 2 * 2 * elements * (size - 1) // size

    def _measure(self, asked: float, ended: float) -> None:
        hidden = sum(stop - start for start, stop in _union((b.encoded, min(b.done, asked)) for b in self._buckets))
        encode = sum(max(0.0, min(b.encoded, asked) - b.started) for b in self._buckets)
        self._choose(encode + ended - asked)
        before = self._overlapped
        self._overlapped = Overlap(
            before.hidden_seconds + hidden,
            before.exposed_seconds + ended - asked,
            before.encode_seconds + encode,
        )

    def _choose(self, seconds: float) -> None:
        if self.choice is None:
            return
        agreed: float | None = None
        if self.choice.listening:
            slowest = torch.tensor([seconds], device=self._buckets[0].flat.device)
            dist.all_reduce(slowest, op=dist.ReduceOp.MAX, group=self._group)
            agreed = float(slowest)
        self.choice.record("all", self._compressed, agreed, 1)
        self._compressed = self.choice.compressed


def broadcast(model: nn.Module, group: Group = None) -> None:
    """Give every rank the first one's weights and buffers."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor, group_src=0, group=group)


def _cut(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and 4 * (sum(p.numel() for p in bucket) + parameter.numel()) > bucket_bytes:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def _union(spans: Iterable[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The parts of time that are in any of `spans`, each once; spans that end before they start are none."""
    start = stop = float("-inf")
    for first, last in sorted(span for span in spans if span[1] > span[0]):
        if first > stop:
            if stop > start:
                yield start, stop
            start, stop = first, last
        stop = max(stop, last)
    if stop > start:
        yield start, stop
