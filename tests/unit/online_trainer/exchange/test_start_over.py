"""Weights that are not finite are never committed: the orders that led there are passed over, their events told."""

from __future__ import annotations

import pytest
import torch

from online_trainer.exchange.asynchronous import NOTHING, AsynchronousExchange
from online_trainer.exchange.layout import FlatLayout
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.releasing import StartOver
from online_trainer.ledger import Untrained
from online_trainer.tensors import from_raw
from tests.unit.online_trainer.exchange.conftest import RECIPE, Group, click, small_model
from tests.unit.online_trainer.exchange.test_failures import trained, until

EVENTS, MORE = 60, 20


def overflow(group: Group) -> None:
    """A member pushes finite updates whose sum with the weights is not."""
    assert group.process is not None
    model = small_model().model
    layout = FlatLayout.of(dict(model.named_parameters()))
    member = AsynchronousExchange(
        "wild", torch.zeros(layout.num_elements), torch.zeros(layout.num_elements), "tiny", layout.digest, group.address
    )
    member.join()
    for _ in range(2):
        member.push(torch.full((layout.num_elements,), -3e38), NOTHING)
    member.leave()
    member.close()
    assert not group.process.owner.replica.is_finite()


def test_an_owner_starts_over_behind_its_last_checkpoint(group: Group) -> None:
    rule = Rule(average=RECIPE.average, compressed=False)
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner(rule, stop_at_end=False, publish_events=EVENTS)
    _, thread, patience = group.worker("a")
    process = group.process
    assert process is not None
    until(lambda: sum(process.owner.sequencer.offsets.values()) == EVENTS, "all trained")
    until(lambda: process.releaser.state.events_trained == EVENTS and not process.releaser.busy, "committed")
    published = group.store.versions("tiny")
    good = {name: tensor.clone() for name, tensor in process.owner.replica.state().items()}
    group.send(*(click(n) for n in range(EVENTS, EVENTS + MORE)))
    until(lambda: sum(process.owner.sequencer.offsets.values()) == EVENTS + MORE, "more trained")
    patience.stop()
    thread.finish()
    overflow(group)
    last = process.owner.replica.index
    group.owner_patience.stop()
    with pytest.raises(StartOver, match=f"orders {int(good['replica.steps'][0]) + 1} to {last}"):
        owner.finish()
    assert group.metric("slipstream_trainer_non_finite_total") == 1
    assert group.store.versions("tiny") == published, "nothing of it was published"

    group.address = "tcp://127.0.0.1:0"
    again = group.owner(rule)
    again.finish()
    state = group.process.owner.replica.state()
    for name in ("replica.weights", "replica.average"):
        assert torch.equal(state[name], good[name]), "the checkpoint's, untouched by the orders behind it"
    assert trained(group) == {f"e{n}": 1 for n in range(EVENTS)}
    passed = [row for row in group.rows() if row.reason is Untrained.NON_FINITE]
    assert {row.event_id for row in passed} == {f"e{n}" for n in range(EVENTS, EVENTS + MORE)}
    newest = from_raw(group.store.read("tiny", group.store.versions("tiny")[-1]).tensors)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in newest.values())
