"""Weights beside live weights: filled by the model's own loader, exchanged whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from serving import shadow as module
from serving.shadow import Shadow, live_fingerprint


class Block(nn.Module):
    """A layer that fuses two checkpoint tensors, as vLLM's do."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.Parameter(torch.zeros(4, 3), requires_grad=False)
        self.fused.weight_loader = self.load_half  # type: ignore[attr-defined]

    def load_half(self, parameter: nn.Parameter, tensor: Tensor, half: int) -> None:
        parameter.data[2 * half : 2 * half + 2].copy_(tensor)


class Model(nn.Module):
    """Two blocks, an embedding and a head tied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.blocks = nn.ModuleList([Block(), Block()])

    def load_weights(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        own = dict(self.named_parameters())
        for name, tensor in tensors:
            prefix, _, half = name.partition(".part")
            if half:
                own[prefix].weight_loader(own[prefix], tensor, int(half))
            else:
                own[name].data.copy_(tensor)


def checkpoint(value: float) -> list[tuple[str, Tensor]]:
    halves = [(f"blocks.{b}.fused.part{h}", torch.full((2, 3), value + b + h)) for b in (0, 1) for h in (0, 1)]
    return [("embedding.weight", torch.full((5, 3), value)), *halves]


@pytest.fixture
def model() -> Model:
    found = Model()
    found.load_weights(checkpoint(1.0))
    return found


def test_filling_a_shadow_leaves_the_live_model_alone(model: Model) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    shadow = Shadow(model)
    shadow.load(checkpoint(7.0))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert shadow.fingerprint() != live_fingerprint(model)


def test_an_exchange_makes_the_shadow_live_and_the_second_one_undoes_it(model: Model) -> None:
    old, shadow = live_fingerprint(model), Shadow(model)
    shadow.load(checkpoint(7.0))
    new = shadow.fingerprint()
    shadow.exchange()
    assert (live_fingerprint(model), shadow.fingerprint()) == (new, old)
    assert torch.equal(model.head(torch.ones(1, 3)), torch.full((1, 5), 21.0)), "the tied head goes with it"
    assert torch.equal(model.blocks[1].fused, torch.tensor([[8.0] * 3] * 2 + [[9.0] * 3] * 2))
    shadow.exchange()
    assert (live_fingerprint(model), shadow.fingerprint()) == (old, new)


def test_an_exchange_that_fails_half_way_changes_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    old, shadow = live_fingerprint(model), Shadow(model)
    shadow.load(checkpoint(7.0))
    new, real, calls = shadow.fingerprint(), module._exchange, 0

    def fail_at_the_second(live: nn.Parameter, other: nn.Parameter) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError("no room")
        real(live, other)

    monkeypatch.setattr(module, "_exchange", fail_at_the_second)
    with pytest.raises(MemoryError):
        shadow.exchange()
    assert (live_fingerprint(model), shadow.fingerprint()) == (old, new)
