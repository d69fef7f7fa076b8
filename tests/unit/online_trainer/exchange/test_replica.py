"""Replicas of one log agree bit for bit, whatever shards they are cut into; nothing of an update is lost."""

from __future__ import annotations

import pytest
import torch

from online_trainer.exchange import payloads
from online_trainer.exchange.layout import cut
from online_trainer.exchange.messages import Encoding, Order, Pushed, Rule
from online_trainer.exchange.replica import OrderGap, Replica

SIZE = 3 * 4096 + 100


def pushed(number: int, encoding: Encoding, start: int = 0, stop: int = SIZE) -> Pushed:
    return Pushed(
        worker="a", incarnation=1, seq=number, base=number - 1, staleness=0, scale=0.5, encoding=encoding,
        start=start, stop=stop,
    )  # fmt: skip


def updates(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SIZE, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("compressed", [True, False])
def test_shards_together_are_the_whole_bit_for_bit(compressed: bool) -> None:
    rule = Rule(compressed=compressed, average=0.9)
    first = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    whole = Replica(first.clone(), rule)
    shards = [Replica(first[start:stop].clone(), rule, start) for start, stop in cut(SIZE, 2)]
    residual = torch.zeros(SIZE)
    for number, update in enumerate(updates(5), start=1):
        parts = [payloads.encode(update[s.start : s.stop].clone(), residual[s.start : s.stop], rule) for s in shards]
        for shard, part in zip(shards, parts, strict=True):
            shard.apply(Order(index=number, pushes=[pushed(number, part.encoding)]), [part.data])
        for shard, part in zip(shards, parts, strict=True):
            one = pushed(number, part.encoding, shard.start, shard.stop)
            decoded = Replica(torch.zeros(SIZE), Rule(learning_rate=-1.0))
            decoded.apply(Order(index=1, pushes=[one]), [part.data])
            assert bool(decoded.weights[: shard.start].eq(0).all()) and bool(decoded.weights[shard.stop :].eq(0).all())
    assert not torch.equal(torch.cat([s.weights for s in shards]), first)
    again = [Replica(torch.zeros(s.weights.numel()), rule, s.start) for s in shards]
    for shard, other in zip(shards, again, strict=True):
        other.load_state({name: tensor.clone() for name, tensor in shard.state().items()})
        assert all(torch.equal(tensor, other.state()[name]) for name, tensor in shard.state().items())
    assert whole.index == 0


@pytest.mark.parametrize("compressed", [True, False])
def test_what_is_sent_and_what_is_kept_is_all_there_was(compressed: bool) -> None:
    rule = Rule(compressed=compressed)
    residual, received = torch.zeros(SIZE), torch.zeros(SIZE)
    for update in updates(8):
        before = residual.double() + update.double()
        encoded = payloads.encode(update, residual, rule)
        sent = torch.zeros(SIZE)
        payloads.add(encoded.encoding, encoded.data, 1.0, sent)
        torch.testing.assert_close(sent.double() + residual.double(), before, rtol=0, atol=1e-6)
        received += sent
    assert 0 < float(residual.norm()) < float(sum(updates(8)).norm())  # type: ignore[union-attr]


def test_a_value_that_is_not_finite_is_not_sent_and_is_counted() -> None:
    update = torch.ones(SIZE)
    update[7] = float("nan")
    for rule in (Rule(), Rule(compressed=False)):
        residual, out = torch.zeros(SIZE), torch.zeros(SIZE)
        encoded = payloads.encode(update.clone(), residual, rule)
        payloads.add(encoded.encoding, encoded.data, 1.0, out)
        assert encoded.nonfinite == 1
        assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(residual).all())


@pytest.mark.parametrize("rule", [Rule(), Rule(compressed=False)])
def test_a_damaged_update_changes_nothing(rule: Rule) -> None:
    encoded = payloads.encode(torch.ones(SIZE), torch.zeros(SIZE), rule)
    with pytest.raises(payloads.DamagedUpdate):
        payloads.check(encoded.encoding, encoded.data[:-4], SIZE)
    with pytest.raises(payloads.DamagedUpdate, match="elements"):
        payloads.check(encoded.encoding, encoded.data, SIZE - 4096)
    payloads.check(encoded.encoding, encoded.data, SIZE)


def test_orders_come_one_after_another() -> None:
    replica = Replica(torch.zeros(SIZE), Rule())
    with pytest.raises(OrderGap, match="order 2 where 1"):
        replica.apply(Order(index=2, pushes=[]), [])


def test_a_state_of_owners_with_an_optimizer_is_refused_and_one_without_is_read() -> None:
    """Owners once kept an optimizer; their folders have its step count, and its moments where it was AdamW."""
    replica = Replica(torch.zeros(SIZE), Rule())
    plain = {"replica.weights": torch.ones(SIZE), "replica.steps": torch.tensor([7, 0])}
    moments = {"replica.exp_avg": torch.zeros(SIZE), "replica.exp_avg_sq": torch.zeros(SIZE)}
    for other in (moments, {"replica.average": torch.ones(SIZE)}):
        with pytest.raises(ValueError, match=rf"differ in {', '.join(other)}: .*go on with the version and settings"):
            replica.load_state(plain | other)
    with pytest.raises(ValueError, match=r"differ in model\.w, replica\.steps, replica\.weights: .*single worker"):
        replica.load_state({"model.w": torch.ones(SIZE)})
    assert replica.index == 0 and not bool(replica.weights.any()), "nothing was taken"
    replica.load_state(plain)
    assert replica.index == 7 and bool(replica.weights.eq(1).all())
