"""What goes wrong in a group, and that it costs no event and no gradient."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import zmq

from online_trainer.exchange.asynchronous import NOTHING, AsynchronousExchange, WorkerUnfit
from online_trainer.exchange.link import Keys, Link, listen
from online_trainer.exchange.messages import Fetch, Join, Reason, Refused
from online_trainer.exchange.sequencer import GroupSettings
from online_trainer.exchange.worker import Worker
from tests.unit.online_trainer.exchange.conftest import Group, click

EVENTS = 120


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def trained(group: Group) -> Counter[str | None]:
    return Counter(row.event_id for row in group.rows() if row.trained)


def everything(count: int = EVENTS) -> Counter[str | None]:
    return Counter({f"e{n}" for n in range(count)})


def test_an_owner_that_is_killed_comes_back_bit_for_bit(group: Group, tmp_path: Path) -> None:
    """What a killed owner leaves behind is its folder: a copy of it, taken while it runs, is such a folder."""
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner(stop_at_end=False, publish_events=50)
    _, thread, patience = group.worker("a")
    assert group.process is not None
    until(
        lambda: group.process.owner.sequencer.offsets and sum(group.process.owner.sequencer.offsets.values()) == EVENTS,
        "all",
    )  # type: ignore[union-attr]
    until(lambda: not group.process.releaser.busy, "published")  # type: ignore[union-attr]
    before = {name: tensor.clone() for name, tensor in group.process.owner.replica.state().items()}
    committed = group.process.releaser.state.plans_applied
    assert 0 < committed < int(before["replica.steps"][0]), "orders behind the checkpoint"
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    patience.stop()
    thread.finish()
    group.owner_patience.stop()
    owner.finish()
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "copy").rename(tmp_path / "state")
    group.address = "tcp://127.0.0.1:0"
    again = group.owner()
    again.finish()
    assert all(torch.equal(tensor, before[name]) for name, tensor in group.process.owner.replica.state().items())
    assert trained(group) == everything()


def test_a_worker_that_hangs_is_lost_and_its_partitions_go_on(group: Group) -> None:
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner(group=GroupSettings(batch_events=8, lease_seconds=0.3))
    hung, _, _ = group.worker("hangs")
    pushed: list[int] = []

    def hang() -> None:
        pushed.append(1)
        if len(pushed) == 3:
            while owner.is_alive():
                time.sleep(0.05)

    hung.exchange.on_wait = hang
    until(lambda: len(pushed) >= 3, "three pushes")
    _, other, _ = group.worker("works", 1)
    other.finish()
    owner.finish()
    assert trained(group) == everything()
    assert group.metric("slipstream_exchange_lost_workers_total") >= 1
    assert group.metric("slipstream_exchange_lost_residual_norm") > 0


def test_a_damaged_payload_is_dropped_counted_and_sent_again(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner()
    original = Link.send
    sent: list[float] = []

    def send(link: Link, message: object, data: object = ()) -> None:
        if data:
            sent.append(1)
            if len(sent) % 4 == 1:
                # A valid frame whose payload is not what compression wrote.
                data = [data[0][:-8] + b"\1" * 8]  # type: ignore[index]
        original(link, message, data)  # type: ignore[arg-type]

    monkeypatch.setattr(Link, "send", send)
    worker, thread, _ = group.worker("a")
    thread.finish()
    owner.finish()
    assert group.metric("slipstream_exchange_refused_total", reason="corrupt") >= 2
    assert trained(group) == everything()
    assert group.process is not None
    assert torch.equal(worker._weights[0], group.process.owner.replica.weights)


def test_what_a_refused_push_held_goes_back_to_the_residual(group: Group) -> None:
    owner = group.owner(stop_at_end=False)
    assert group.process is not None
    size = group.process.owner.replica.weights.numel()
    layout = group.process.owner.identity.layout
    exchange = AsynchronousExchange("x", torch.zeros(size), None, "tiny", layout, group.address)
    exchange.join()
    update = torch.randn(size, generator=torch.Generator().manual_seed(0))
    first = exchange._weights.clone()
    pending = exchange._prepare(update.clone(), NOTHING)
    exchange._return(pending)
    torch.testing.assert_close(exchange.residual, update, rtol=0, atol=1e-6)
    exchange.residual.zero_()
    exchange.exchange(update)
    moved = first - exchange._weights
    torch.testing.assert_close(moved + exchange.residual, update, rtol=0, atol=1e-6)
    exchange.close()
    group.owner_patience.stop()
    owner.finish()


def test_a_worker_of_another_model_is_refused_with_both_named(group: Group) -> None:
    owner = group.owner(stop_at_end=False)
    exchange = AsynchronousExchange("x", torch.zeros(10), None, "tiny", "feedbeef", group.address)
    with pytest.raises(WorkerUnfit, match=r"layout feedbeef.*layout [0-9a-f]{16}"):
        exchange.join()
    exchange.close()
    group.owner_patience.stop()
    owner.finish()


def test_a_worker_of_the_protocol_with_an_optimizer_is_refused_with_both_named(group: Group) -> None:
    """Its `Rule` says `optimizer`, which this end would pass over and the other end take for a default."""
    owner = group.owner(stop_at_end=False)
    assert group.process is not None
    link = Link(zmq.Context.instance(), group.address)
    layout = group.process.owner.identity.layout
    reply, _ = link.ask(Join(worker="old", incarnation=1, model="tiny", layout=layout, protocol=1))
    assert isinstance(reply, Refused) and reply.reason is Reason.LAYOUT
    assert "protocol 1; this owner" in reply.detail and reply.detail.count("protocol 3") == 1
    link.close()
    group.owner_patience.stop()
    owner.finish()


def test_gradients_that_are_not_finite_are_passed_over_and_counted(group: Group) -> None:
    group.send(*(click(n) for n in range(EVENTS)))
    owner = group.owner()
    worker, thread, _ = group.worker("a")
    original = worker.learner._online.backward
    calls: list[int] = []

    def backward(*arguments: object) -> tuple[float, float]:
        loss, norm = original(*arguments)  # type: ignore[arg-type]
        calls.append(1)
        return (float("nan"), norm) if len(calls) == 3 else (loss, norm)

    worker.learner._online.backward = backward  # type: ignore[method-assign, assignment]
    thread.finish()
    owner.finish()
    assert group.metric("slipstream_trainer_non_finite_total") == 1
    left_out = [row for row in group.rows() if row.reason == "non_finite"]
    assert left_out and len(left_out) + trained(group).total() == EVENTS


def test_a_straggler_is_seen_and_its_partitions_move(group: Group) -> None:
    group.send(*(click(n) for n in range(400)))
    owner = group.owner(group=GroupSettings(batch_events=8, balance_seconds=0.2))
    threads = []
    for number, name in enumerate(("slow", "fast")):
        worker, thread, _ = group.worker(name, number)
        _delay(worker, 0.04 if name == "slow" else 0.002)
        threads.append(thread)
    moved = 0.0
    while any(thread.is_alive() for thread in threads):
        moved = max(moved, group.metric("slipstream_exchange_partition_moves_total"))
        speeds = [group.metric("slipstream_exchange_events_per_second", worker=name) for name in ("slow", "fast")]
        time.sleep(0.02)
    for thread in threads:
        thread.finish()
    owner.finish()
    assert trained(group) == everything(400)
    assert speeds[1] > 2 * speeds[0] > 0
    assert group.metric("slipstream_exchange_batch_events", worker="slow") < 8
    assert moved > 4, "beyond the first assignment"


def _delay(worker: Worker, seconds_per_event: float) -> None:
    """Slow batches down in proportion to their events."""
    original = worker._batch

    def batch(plan: object, steps: object) -> None:
        time.sleep(seconds_per_event * sum(end - first for first, end in plan.ranges.values()))  # type: ignore[attr-defined]
        original(plan, steps)  # type: ignore[arg-type]

    worker._batch = batch  # type: ignore[method-assign, assignment]


def test_keys_let_their_holders_in_and_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "other").write_bytes(bytes(range(1, 33)))
    with pytest.raises(ValueError, match="not loopback: give --exchange-key"):
        listen(zmq.Context.instance(), "tcp://0.0.0.0:0", None)
    keys, stranger = Keys.read(tmp_path / "key"), Keys.read(tmp_path / "other")
    socket, address = listen(zmq.Context.instance(), "tcp://127.0.0.1:0", keys)
    for given, gets_through in ((keys, True), (stranger, False), (None, False)):
        link = Link(zmq.Context.instance(), address, given)
        link.send(Fetch())
        assert bool(socket.poll(2000 if gets_through else 300)) is gets_through
        if gets_through:
            socket.recv_multipart()
        link.close()
    socket.close(0)
