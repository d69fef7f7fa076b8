"""One contract for every `GradientExchange`: what is given is in the weights or in the residual, nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from online_trainer.exchange.asynchronous import AsynchronousExchange
from online_trainer.exchange.bench import owner_in_thread
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.seam import GradientExchange
from online_trainer.exchange.synchronous import SynchronousExchange

SIZE = 3 * 4096 + 50
RULES = {"compressed": Rule(), "dense": Rule(compressed=False), "fragments": Rule(fragments=2)}
Make = Callable[[Tensor], GradientExchange]


@pytest.fixture(params=["synchronous", "asynchronous"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=list(RULES))
def rule(request: pytest.FixtureRequest) -> Rule:
    return RULES[request.param]


@pytest.fixture
def make(kind: str, rule: Rule, tmp_path: Path) -> Iterator[Make]:
    """The exchange of a group's one worker, over given weights."""
    if kind == "synchronous":
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        yield lambda weights: SynchronousExchange(weights, rule)
        dist.destroy_process_group()
        return
    opened: list[AsynchronousExchange] = []
    with owner_in_thread(rule, SIZE, tmp_path) as owner:

        def open_exchange(weights: Tensor) -> GradientExchange:
            opened.append(AsynchronousExchange("w", weights, None, "bench", "bench", owner.identity.shards[0]))
            return opened[-1]

        yield open_exchange
        for exchange in opened:
            exchange.close()


def update(number: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(number))


def test_what_is_given_is_in_the_weights_or_in_the_residual(make: Make, rule: Rule) -> None:
    weights = torch.zeros(SIZE)
    exchange = make(weights)
    exchange.join()
    first, given = weights.clone(), torch.zeros(SIZE, dtype=torch.float64)
    for number in range(1, 6):
        assert exchange.exchange(update(number)) == number
        assert exchange.refresh() == number
        given += update(number)
        kept = (first.double() - weights.double()) + exchange.residual.double()
        torch.testing.assert_close(kept, given, rtol=0, atol=1e-5)
    assert float(exchange.residual.norm()) > 0
    assert not torch.equal(weights, first)
    exchange.leave()


def test_weights_move_within_calls_only_and_traffic_is_counted(make: Make, kind: str, rule: Rule) -> None:
    weights = torch.zeros(SIZE)
    exchange = make(weights)
    exchange.join()
    before = exchange.traffic
    exchange.exchange(update(1))
    held = weights.clone()
    exchange.refresh()
    assert torch.equal(weights, held), "nobody else has given anything"
    after = exchange.traffic
    # A synchronous group of one sends nothing.
    assert (after.sent_bytes > before.sent_bytes) is (kind == "asynchronous")
    assert after.waited_seconds >= before.waited_seconds
    exchange.leave()
