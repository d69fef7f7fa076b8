"""Compressed gradients for any DistributedDataParallel model: a communication hook with error feedback.

    model = DistributedDataParallel(net)
    model.register_comm_hook(CompressedGradients(), compressed_gradients)

DDP calls the hook for each bucket as soon as backward has filled it, so buckets are compressed and travel while
backward goes on. At 64 of 4096 and 2 bits a bucket sends 1/140 of its fp32 bytes. What is not sent is added to the next
step's gradient. Works with gloo and NCCL; fp32 and bf16 gradients. docs/ddp.md has an example.
"""

# No postponed annotations here: DDP compares the hook's with its own types.
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.distributed import ProcessGroup

from kernels.payload import CompressionSpec, Quantizer
from online_trainer.exchange.collectives import compressed_mean, dense_mean


class _Bucket(NamedTuple):
    parameters: tuple[int, ...]
    residual: Tensor


class CompressedGradients:
    """The hook's state: one a model and rank.

    Args:
        spec: what is sent of each chunk of a bucket; 64 of 4096 at 2 bits by default.
        dense_steps: so many first steps send bf16 instead: an optimizer's moments start better on whole gradients.
        group: the model's process group; None for the default one.
    """

    def __init__(
        self, spec: CompressionSpec | None = None, dense_steps: int = 0, group: ProcessGroup | None = None
    ) -> None:
        self.spec = spec or CompressionSpec()
        self.group = group
        self.dense_steps = dense_steps
        self.steps = 0
        self._buckets: dict[int, _Bucket] = {}
        self._residuals: dict[int, Tensor] = {}

    def residual_of(self, bucket: GradBucket) -> Tensor:
        """What was not sent of a bucket's gradients, `[n]` fp32.

        DDP lays its buckets out anew after the first step: a parameter's residual goes with it.
        """
        parameters = tuple(map(id, bucket.parameters()))
        held = self._buckets.get(bucket.index())
        if held is None or held.parameters != parameters:
            residual = torch.zeros_like(bucket.buffer(), dtype=torch.float32)
            at = 0
            for parameter in bucket.parameters():
                part = residual[at : at + parameter.numel()]
                if (before := self._residuals.get(id(parameter))) is not None:
                    part.copy_(before)
                self._residuals[id(parameter)] = part
                at += parameter.numel()
            held = self._buckets[bucket.index()] = _Bucket(parameters, residual)
        return held.residual

    def residuals(self, model: nn.Module) -> dict[str, Tensor]:
        """This rank's residuals by parameter name: with them in a checkpoint, no gradient is lost at a restart."""
        named = model.named_parameters()
        return {name: self._residuals[id(p)].view(p.shape) for name, p in named if id(p) in self._residuals}

    def load_residuals(self, model: nn.Module, residuals: Mapping[str, Tensor]) -> None:
        """Become what `residuals` gave."""
        self._buckets.clear()
        parameters = dict(model.named_parameters())
        self._residuals = {id(parameters[name]): tensor.clone().view(-1) for name, tensor in residuals.items()}


def compressed_gradients(state: CompressedGradients, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The hook itself; see `torch.nn.parallel.DistributedDataParallel.register_comm_hook`."""
    gradient = bucket.buffer()
    dense = state.steps < state.dense_steps
    state.steps += bucket.is_last()
    out = gradient if gradient.dtype == torch.float32 else None
    if dense:
        mean = dense_mean(gradient, state.group, out)
    else:
        mean = compressed_mean(gradient, state.residual_of(bucket), state.spec, state.group, out=out)
    return mean.then(lambda future: future.value().to(gradient.dtype))


__all__ = ["CompressedGradients", "CompressionSpec", "Quantizer", "compressed_gradients"]
