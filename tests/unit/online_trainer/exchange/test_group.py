"""An owner and its workers together: every event once, every replica the same, whoever comes and goes."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import torch

from online_trainer.exchange.messages import Rule
from online_trainer.exchange.sequencer import GroupSettings
from online_trainer.learner import StepReport
from online_trainer.tensors import from_raw
from tests.unit.online_trainer.exchange.conftest import RECIPE, Group, click

EVENTS = 200


def trained(group: Group) -> Counter[str | None]:
    return Counter(row.event_id for row in group.rows() if row.trained)


@pytest.mark.parametrize(
    ("rule", "settings", "owners"),
    [
        (Rule(average=0.9), GroupSettings(batch_events=8), 1),
        (Rule(compressed=False), GroupSettings(batch_events=8, staleness_bound=2), 1),
        (Rule(local_steps=3, fragments=2, average=0.9), GroupSettings(batch_events=8, staleness_bound=4), 1),
        (Rule(average=0.9, fragments=3), GroupSettings(batch_events=8), 2),
    ],
)
def test_two_workers_train_every_event_once_and_hold_the_owners_weights(
    group: Group, rule: Rule, settings: GroupSettings, owners: int
) -> None:
    group.send(*(click(n) for n in range(EVENTS)))
    recipe = RECIPE if rule.average else type(RECIPE)(replay_windows=4, average=0.0)
    owner = group.owner(rule, settings, owners, recipe=recipe)
    workers = [group.worker(name, number, recipe=recipe) for number, name in enumerate("ab")]
    for _, thread, _ in workers:
        thread.finish()
    owner.finish()
    assert group.process is not None
    assert trained(group) == Counter({f"e{n}" for n in range(EVENTS)})
    replicas = [group.process.owner.replica, *(shard.replica for shard in group.shards)]
    weights = torch.cat([replica.weights for replica in replicas])
    serving = torch.cat([replica.serving for replica in replicas])
    for worker, _, _ in workers:
        assert all(worker.exchange.index == replica.index for replica in replicas)
        assert torch.equal(worker._weights[0], weights)
        assert torch.equal(worker._weights[1], serving)
    newest = from_raw(group.store.read("tiny", group.store.versions("tiny")[-1]).tensors)
    assert torch.equal(
        torch.cat([tensor.reshape(-1) for tensor in newest.values()]).sort().values, serving.sort().values
    )
    assert {worker for worker in "ab" if group.metric("slipstream_exchange_pushes_total", worker=worker)} == {"a", "b"}
    assert len(group.store.versions("tiny")) > 2
    manifest = group.store.manifest("tiny", group.store.versions("tiny")[-1])
    assert manifest.events_trained == EVENTS
    assert sum(manifest.offsets.values()) == EVENTS


def test_a_worker_steps_on_from_what_it_has_not_sent_yet(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = group.owner(stop_at_end=False)
    worker, thread, patience = group.worker("a")
    assert group.process is not None
    kept = group.process.owner.replica.weights
    unsent: list[float] = []
    step = worker.learner.step

    def watched(*args: Any) -> StepReport:
        residual = worker.exchange.residual
        unsent.append(float(residual.norm()))
        torch.testing.assert_close(worker._weights[0], kept - residual, rtol=0, atol=0)
        return step(*args)

    monkeypatch.setattr(worker.learner, "step", watched)
    group.send(*(click(n) for n in range(EVENTS)))
    deadline = time.monotonic() + 30
    while thread.is_alive() and sum(group.process.owner.sequencer.offsets.values()) < EVENTS:
        assert time.monotonic() < deadline, "it does not get on"
        time.sleep(0.02)
    patience.stop()
    thread.finish()
    group.owner_patience.stop()
    owner.finish()
    assert unsent[0] == 0 < min(unsent[1:])


def test_a_single_event_is_trained_once_it_has_lingered(group: Group) -> None:
    owner = group.owner(stop_at_end=False, linger_seconds=0.3)
    _, thread, patience = group.worker("a", linger_seconds=0.3)
    assert group.process is not None
    for number in range(3):
        group.send(click(number))
        deadline = time.monotonic() + 10
        while sum(group.process.owner.sequencer.offsets.values()) <= number:
            assert time.monotonic() < deadline, "it waits for more"
            time.sleep(0.02)
    patience.stop()
    thread.finish()
    group.owner_patience.stop()
    owner.finish()
    assert trained(group) == Counter({"e0", "e1", "e2"})
