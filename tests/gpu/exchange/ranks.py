"""Two ranks that check the synchronous collectives and the DDP hook, and time DDP with it.

`python tests/gpu/exchange/ranks.py nccl` on two GPUs, `gloo` on CPUs; needs torch, numpy and the kernels alone. It
ends with one line of JSON, or with an error.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[3]))
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from kernels.compress import compress
from kernels.decompress_accumulate import decompress_accumulate
from kernels.payload import CompressionSpec
from online_trainer.exchange.collectives import compressed_mean, dense_mean
from slipstream.ddp import CompressedGradients, compressed_gradients

SIZE = 5 * 4096 + 77


def updates(seed: int, device: torch.device) -> list[torch.Tensor]:
    """What either rank gives in a round; both ranks make both."""
    return [torch.randn(SIZE, generator=torch.Generator().manual_seed(10 * seed + rank)).to(device) for rank in (0, 1)]


def check_collectives(rank: int, device: torch.device) -> None:
    """Each round's mean is, bit for bit, what the same kernels make of both ranks' updates in one process."""
    spec = CompressionSpec()
    residual = torch.zeros(SIZE, device=device)
    expected_residuals = [torch.zeros(SIZE, device=device) for _ in (0, 1)]
    for seed in range(4):
        both = updates(seed, device)
        payloads = [compress(u, r, spec).payload for u, r in zip(both, expected_residuals, strict=True)]
        expected = decompress_accumulate(payloads, torch.empty(SIZE, device=device), [0.5, 0.5])
        got = compressed_mean(both[rank].clone(), residual, spec).wait()
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
        torch.testing.assert_close(residual, expected_residuals[rank], rtol=0, atol=0)
        dense = dense_mean(both[rank].clone()).wait()
        torch.testing.assert_close(dense, (both[0].bfloat16().float() + both[1].bfloat16().float()) / 2, rtol=0, atol=0)


def check_hook(rank: int, device: torch.device) -> None:
    """After five steps, what DDP gave and what the ranks have kept back add up to their gradients."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 200), nn.Linear(200, 7)).to(device)
    model = DistributedDataParallel(net, bucket_cap_mb=0.2)
    state = CompressedGradients(CompressionSpec(slots=8, chunk=256))
    model.register_comm_hook(state, compressed_gradients)
    given = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    received = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step in range(5):
        inputs = torch.randn(16, 300, generator=torch.Generator().manual_seed(100 * step + rank)).to(device)
        local = torch.autograd.grad(net(inputs).square().mean(), list(net.parameters()))
        model.zero_grad()
        model(inputs).square().mean().backward()
        for (name, parameter), gradient in zip(model.named_parameters(), local, strict=True):
            received[name] += parameter.grad
            given[name] += gradient
    for name, kept in state.residuals(model).items():
        total = given[name] - kept.view_as(given[name])
        dist.all_reduce(total)
        torch.testing.assert_close(2 * received[name], total, rtol=0, atol=1e-4)


def step_seconds(kind: str, device: torch.device) -> float:
    """Median of a step of eight square layers, 134 M parameters on a GPU."""
    width, turns = (4096, 20) if device.type == "cuda" else (128, 5)
    net = nn.Sequential(*(nn.Linear(width, width) for _ in range(8))).to(device)
    model = DistributedDataParallel(net, gradient_as_bucket_view=True)
    if kind == "compressed":
        model.register_comm_hook(CompressedGradients(), compressed_gradients)
    elif kind == "bf16" and device.type == "cuda":
        model.register_comm_hook(None, bf16_compress_hook)
    inputs, taken = torch.randn(256, width, device=device), []
    for _ in range(turns):
        dist.barrier()
        started = time.perf_counter()
        model(inputs).square().mean().backward()
        model.zero_grad(set_to_none=False)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[3:])


def run(rank: int, backend: str, store: str) -> None:
    """One rank."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=2)
    check_collectives(rank, device)
    check_hook(rank, device)
    found: dict[str, Any] = {kind: 1000 * step_seconds(kind, device) for kind in ("fp32", "bf16", "compressed")}
    if rank == 0:
        print(json.dumps({"backend": backend, "torch": torch.__version__, "step_ms": found}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, args=(sys.argv[1], f"{folder}/store"), nprocs=2)
