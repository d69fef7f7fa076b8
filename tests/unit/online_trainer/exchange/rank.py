"""What a rank of the synchronous tests runs: `python rank.py RANK SIZE STORE_FILE OUT`."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from online_trainer.exchange import collectives
from online_trainer.exchange.choice import EncodingChoice
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.overlapped import OverlappedGradients, broadcast
from online_trainer.exchange.synchronous import SynchronousExchange
from slipstream.ddp import CompressedGradients, CompressionSpec, compressed_gradients

SIZE = 2 * 4096 + 77


def exchange(rule: Rule) -> dict[str, torch.Tensor]:
    rank = dist.get_rank()
    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(rank))
    exchange = SynchronousExchange(weights, rule)
    exchange.join()
    first = weights.clone()
    generator = torch.Generator().manual_seed(10 + rank)
    total = torch.zeros(SIZE, dtype=torch.float64)
    for _ in range(6):
        update = torch.randn(SIZE, generator=generator)
        total += update
        exchange.exchange(update)
    exchange.leave()
    return {"first": first, "weights": weights, "residual": exchange.residual, "total": total}


def hook() -> dict[str, torch.Tensor]:
    """Three steps of a model of three buckets, by the hook and by hand: parameters, residuals, and gradients' sums."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(300, 300), torch.nn.Linear(300, 200), torch.nn.Linear(200, 7))
    model = DistributedDataParallel(net, bucket_cap_mb=0.2)
    state = CompressedGradients(CompressionSpec(slots=8, chunk=256))
    model.register_comm_hook(state, compressed_gradients)
    names = [name for name, _ in model.named_parameters()]
    received = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    given = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in model.named_parameters()}
    for step in range(4):
        inputs = torch.randn(16, 300, generator=torch.Generator().manual_seed(100 * step + dist.get_rank()))
        local = torch.autograd.grad(net(inputs).square().mean(), list(net.parameters()))
        model.zero_grad()
        model(inputs).square().mean().backward()
        for name, parameter, gradient in zip(names, model.parameters(), local, strict=True):
            assert parameter.grad is not None
            received[name] += parameter.grad
            given[name] += gradient
    out = {f"residual.{name}": tensor.clone() for name, tensor in state.residuals(model).items()}
    return out | {f"received.{n}": t for n, t in received.items()} | {f"given.{n}": t for n, t in given.items()}


def overlapped(rule: Rule, overlap: bool) -> dict[str, torch.Tensor]:
    """Five steps of a model of several buckets, one parameter of which some steps leave out."""
    torch.manual_seed(dist.get_rank())
    net = torch.nn.Sequential(*(torch.nn.Linear(200, 200) for _ in range(4)), torch.nn.Linear(200, 3))
    spare = torch.nn.Parameter(torch.ones(50))
    net.register_parameter("spare", spare)
    broadcast(net)
    gradients = OverlappedGradients(net, rule, bucket_bytes=200_000, overlap=overlap)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    given = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in net.named_parameters()}
    received = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in net.named_parameters()}
    for step in range(5):
        inputs = torch.randn(16, 200, generator=torch.Generator().manual_seed(100 * step + dist.get_rank()))
        loss = net(inputs).square().mean() + (spare.square().sum() if step % 2 else 0)
        names, parameters = zip(*((n, p) for n, p in net.named_parameters() if step % 2 or p is not spare), strict=True)
        for name, gradient in zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True):
            given[name] += gradient
        # Both ways to clear: with the views kept, and with tensors that autograd makes anew.
        optimizer.zero_grad(set_to_none=step < 3)
        loss.backward()
        gradients.finish()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None
            received[name] += parameter.grad
        optimizer.step()
    seconds = torch.tensor(gradients.overlap)
    gradients.close()
    out = {f"received.{n}": t for n, t in received.items()} | {f"given.{n}": t for n, t in given.items()}
    return out | {"weights": torch.cat([p.detach().flatten() for p in net.parameters()]), "seconds": seconds}


def chosen() -> dict[str, torch.Tensor]:
    """Steps until the ranks have chosen, and some: each one's choice, its weights, and what was given and received."""
    net = torch.nn.Linear(100, 100, bias=False)
    broadcast(net)
    gradients = OverlappedGradients(net, Rule(choose=True))
    given, received = torch.zeros(100, 100, dtype=torch.float64), torch.zeros(100, 100, dtype=torch.float64)
    said = []
    for step in range((2 * EncodingChoice.PASSES + 1) * EncodingChoice.TRIES):
        inputs = torch.randn(8, 100, generator=torch.Generator().manual_seed(100 * step + dist.get_rank()))
        loss = net(inputs).square().mean()
        given += torch.autograd.grad(loss, net.weight, retain_graph=True)[0]
        net.zero_grad()
        assert gradients.choice is not None
        said.append(gradients.choice.compressed)
        loss.backward()
        gradients.finish()
        assert net.weight.grad is not None
        received += net.weight.grad
    assert gradients.choice.settled is not None
    seconds = [gradients.choice.seconds(True), gradients.choice.seconds(False)]
    residual = gradients.residual_norm()
    return {
        "said": torch.tensor([*said, gradients.choice.settled]), "seconds": torch.tensor(seconds, dtype=torch.float64),
        "given": given, "received": received, "residual": torch.tensor(residual),
    }  # fmt: skip


def python_threads() -> dict[str, torch.Tensor]:
    """Whether a thread that Python knows, or one of gloo's, decoded in three hooked steps and let go of each tensor
    that gloo was given; two steps are dense, of one round and of a ring's two."""
    decoded: list[bool] = []
    freed: list[bool] = []
    decode, gather, reduce = collectives.decompress_accumulate, collectives._all_gather, dist.all_reduce

    def noted(*given: object) -> torch.Tensor:
        decoded.append(_known_to_python())
        return decode(*given)  # type: ignore[arg-type]

    def watched(call: Callable[..., dist.Work]) -> Callable[..., dist.Work]:
        def to_gloo(*tensors: torch.Tensor, **options: object) -> dist.Work:
            for tensor in tensors:
                weakref.finalize(tensor, lambda: freed.append(_known_to_python()))
            return call(*tensors, **options)

        return to_gloo

    collectives.decompress_accumulate, collectives._all_gather = noted, watched(gather)
    dist.all_reduce = watched(reduce)
    try:
        model = DistributedDataParallel(torch.nn.Linear(300, 300))
        model.register_comm_hook(CompressedGradients(), compressed_gradients)
        for _ in range(3):
            model(torch.randn(4, 300)).square().mean().backward()
        for elements in (100, collectives._ONE_ROUND + 1):
            collectives.dense_mean(torch.randn(elements)).wait()
        wait_until(lambda: len(freed) >= 9)
    finally:
        collectives.decompress_accumulate, collectives._all_gather, dist.all_reduce = decode, gather, reduce
    return {"decoded": torch.tensor(decoded), "freed": torch.tensor(freed)}


def _known_to_python() -> bool:
    return not isinstance(threading.current_thread(), threading._DummyThread)


def wait_until(found: Callable[[], bool], seconds: float = 20.0) -> None:
    """Until `found`, or for so long."""
    deadline = time.monotonic() + seconds
    while not found() and time.monotonic() < deadline:
        time.sleep(0.01)


def main(rank: str, size: str, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=int(size))
    rules = {"compressed": Rule(), "dense": Rule(compressed=False), "fragments": Rule(fragments=3)}
    found = {case: exchange(rule) for case, rule in rules.items()} | {"hook": hook()}
    for case in ("compressed", "dense"):
        found[f"{case}, overlapped"] = overlapped(rules[case], overlap=True)
        found[f"{case}, after backward"] = overlapped(rules[case], overlap=False)
    found["chosen"] = chosen()
    found["python threads"] = python_threads()
    torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
