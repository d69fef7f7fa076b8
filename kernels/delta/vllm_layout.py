"""Where vLLM keeps a checkpoint's tensors on one rank: fused, sharded, padded or replicated, as regions.

Read off the module tree (vLLM 0.26 to 0.33), so that it holds for every architecture made of these layers:

| layer | checkpoint tensors | rows of the checkpoint on tensor-parallel rank t of T |
| --- | --- | --- |
| QKVParallelLinear | q, k, v one under another | q: heads t·H/T on; k, v: t·K/T on, or ⌊t·K/T⌋ alone if T > K |
| MergedColumnParallelLinear | gate, up one under another | t/T of each |
| ColumnParallelLinear | one | t/T of its rows |
| RowParallelLinear | one | all rows, t/T of its columns; the bias whole, on rank 0 |
| VocabParallelEmbedding, ParallelLMHead | one | its share of the vocabulary; the padding below is no checkpoint's |
| any other parameter | one | all of it |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kernels.delta.live import Region

_DEFAULT_PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class RepackedLayers(ValueError):
    """Some weights are packed out of sight (vLLM's CPU build): use `kernels.delta.repacked` for this model."""


def vllm_regions(model: nn.Module) -> dict[str, list[Region]]:
    """Regions by checkpoint name for a loaded vLLM model, one rank's.

    Raises:
        RepackedLayers: a parameter is empty because vLLM moved it into a kernel's own format.
    """
    packed = getattr(model, "packed_modules_mapping", None) or _DEFAULT_PACKED
    found: dict[str, list[Region]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.numel():
                raise RepackedLayers(f"{prefix}.{name} is empty: vLLM repacked it, kernels.delta.repacked is the way")
            for part, region in _regions(module, name, parameter.data, prefix, packed):
                found.setdefault(f"{part}.{name}" if part else name, []).append(region)
    return found


def _regions(
    module: Any, name: str, parameter: torch.Tensor, prefix: str, packed: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Region]]:
    """(checkpoint module name, region) of one parameter."""
    kinds = {base.__name__ for base in type(module).__mro__}
    parent, _, own = prefix.rpartition(".")
    names = [f"{parent}.{part}" if parent else part for part in packed.get(own, ())]
    columns = parameter.shape[1] if parameter.dim() == 2 else 1
    if "QKVParallelLinear" in kinds:
        yield from _stack(names, _head_rows(module), columns, parameter)
    elif "MergedColumnParallelLinear" in kinds:
        rows = [_share(total, module.tp_rank, module.tp_size) for total in module.output_sizes]
        yield from _stack(names or [prefix], rows, columns, parameter)
    elif "ColumnParallelLinear" in kinds:
        yield from _stack(
            [prefix], [_share(parameter.shape[0] * module.tp_size, module.tp_rank, module.tp_size)], columns, parameter
        )
    elif "RowParallelLinear" in kinds and name == "weight":
        held = _share(columns * module.tp_size, module.tp_rank, module.tp_size)
        yield prefix, Region((parameter.shape[0], held[2]), (0, parameter.shape[0]), held[:2], parameter)
    elif "VocabParallelEmbedding" in kinds:
        indices = module.shard_indices
        words = (indices.org_vocab_start_index, indices.org_vocab_end_index)
        yield prefix, Region((module.org_vocab_size, columns), words, (0, columns), parameter)
    else:
        yield prefix, Region.whole(parameter)


def _share(total: int, rank: int, size: int) -> tuple[int, int, int]:
    """(first, last + 1, total) of an even share."""
    return rank * total // size, (rank + 1) * total // size, total


def _head_rows(module: Any) -> list[tuple[int, int, int]]:
    """(first row, last + 1, rows of the checkpoint tensor) of q, k and v."""
    value_size = getattr(module, "v_head_size", module.head_size)
    query = module.tp_rank * module.num_heads
    key = module.tp_rank // module.num_kv_head_replicas * module.num_kv_heads
    return [
        (
            query * module.head_size,
            (query + module.num_heads) * module.head_size,
            module.total_num_heads * module.head_size,
        ),
        (
            key * module.head_size,
            (key + module.num_kv_heads) * module.head_size,
            module.total_num_kv_heads * module.head_size,
        ),
        (key * value_size, (key + module.num_kv_heads) * value_size, module.total_num_kv_heads * value_size),
    ]


def _stack(
    names: Sequence[str], rows: Sequence[tuple[int, int, int]], columns: int, parameter: torch.Tensor
) -> Iterator[tuple[str, Region]]:
    """Shares of several checkpoint tensors, one under another in `parameter`."""
    at = 0
    for name, (first, last, total) in zip(names, rows, strict=True):
        yield name, Region((total, columns), (first, last), (0, columns), parameter, at_row=at)
        at += last - first
