"""The coordinator under arbitrary orders of messages, deaths and hangs: exactly once, bounded, never stuck."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from online_trainer.exchange.messages import Encoding, Measured, Push, Reason, Refused
from online_trainer.exchange.sequencer import GroupSettings, Sequencer
from online_trainer.ledger import LedgerRow

PARTITIONS, BOUND = 4, 6
WORKERS = ("a", "b", "c")


@dataclass
class Worker:
    """What a real worker keeps: its incarnation, its assignment, and the push it waits for."""

    name: str
    incarnation: int
    seq: int = 0
    generation: int = 0
    base: int = 0
    partitions: dict[int, int] = field(default_factory=dict)
    pending: Push | None = None


def push_of(worker: Worker, ranges: dict[int, tuple[int, int]]) -> Push:
    rows = [
        LedgerRow(partition=p, offset=o, batch=1, trained=True, event_id=f"{p}-{o}")
        for p, (first, end) in ranges.items()
        for o in range(first, end)
    ]
    return Push(
        worker=worker.name,
        incarnation=worker.incarnation,
        seq=worker.seq + 1,
        generation=worker.generation,
        base=worker.base,
        ranges=ranges,
        rows=rows,
        encoding=Encoding.NONE,
        start=0,
        stop=0,
        measured=Measured(compute_seconds=0.1 if worker.name != "c" else 0.4),
        residual_norm=1.0,
    )


class Group:
    """Three workers over four partitions; each action is a message that arrives, or a failure."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.incarnations = 0
        self.seen: set[str] = set()
        self.counted: Counter[str] = Counter()
        self.order_indices: list[int] = []
        self.staleness: list[int] = []
        self.workers: dict[str, Worker] = {}
        self.deaf: set[str] = set()
        chosen = GroupSettings(staleness_bound=BOUND, lease_seconds=5.0)
        self.sequencer = Sequencer(dict.fromkeys(range(PARTITIONS), 0), chosen, self.seen)

    def run(self, steps: int) -> None:
        actions = {
            self.ask: 30, self.push: 50, self.wait: 6, self.start_or_replace: 5, self.die: 2, self.lose_replies: 4,
            self.restart_the_coordinator: 1,
        }  # fmt: skip
        self.start_or_replace()
        for _ in range(steps):
            self.random.choices(list(actions), list(actions.values()))[0]()
            self.settle()
            self.check()

    def news(self, worker: Worker, idle: bool) -> None:
        """The coordinator answers: the worker has everything now."""
        self.sequencer.told(worker.name, idle)
        worker.base = self.sequencer.index
        worker.generation = self.sequencer.assignment.generation
        worker.partitions = self.sequencer.partitions_of(worker.name)

    def settle(self) -> None:
        """Order what may be ordered, and answer."""
        for order, pushes in self.sequencer.ready():
            self.order_indices.append(order.index)
            self.staleness += [pushed.staleness for pushed in order.pushes]
            for push in pushes:
                self.counted.update(row.event_id for row in push.rows if row.event_id)
                self.seen.update(row.event_id for row in push.rows if row.event_id)
                worker = self.workers.get(push.worker)
                if worker is not None and worker.incarnation == push.incarnation:
                    self.sequencer.told(worker.name, idle=False)
                    if worker.name not in self.deaf:
                        worker.seq, worker.pending = push.seq, None
                        self.news(worker, idle=False)
        for push, refused in self.sequencer.refused():
            worker = self.workers.get(push.worker)
            assert refused.reason is not Reason.STALE, "who waits is not passed too often"
            if worker is not None and worker.incarnation == push.incarnation:
                worker.pending = None

    def start_or_replace(self) -> None:
        """A fresh process; the old one of its name, if any, is gone with its pending push."""
        self.incarnations += 1
        worker = Worker(self.random.choice(WORKERS), self.incarnations)
        self.workers[worker.name] = worker
        self.sequencer.join(worker.name, worker.incarnation, self.now)

    def ask(self) -> None:
        free = [worker for worker in self.workers.values() if worker.pending is None]
        if not free:
            return
        worker = self.random.choice(free)
        member = self.sequencer.hear(worker.name, worker.incarnation, worker.generation, self.now)
        if isinstance(member, Refused):
            self.join_again(worker, member)
        else:
            self.news(worker, self.random.random() < 0.3)

    def join_again(self, worker: Worker, refused: Refused) -> None:
        assert refused.reason is Reason.UNKNOWN_MEMBER
        worker.seq = self.sequencer.join(worker.name, worker.incarnation, self.now).seq
        worker.generation = 0

    def push(self) -> None:
        ready = [worker for worker in self.workers.values() if worker.partitions or worker.pending]
        if not ready:
            return
        worker = self.random.choice(ready)
        if worker.pending is None:
            chosen = self.random.sample(sorted(worker.partitions), self.random.randint(1, len(worker.partitions)))
            ranges = {p: (worker.partitions[p], worker.partitions[p] + self.random.randint(1, 3)) for p in chosen}
            worker.pending = push_of(worker, ranges)
        pending = worker.pending
        for _ in range(self.random.choice((1, 1, 2))):
            verdict = self.sequencer.submit(pending, self.now)
        if isinstance(verdict, int):
            assert verdict in self.order_indices
            worker.seq, worker.pending = pending.seq, None
            self.news(worker, idle=False)
        elif isinstance(verdict, Refused):
            member = self.sequencer.members.get(worker.name)
            assert verdict.reason is not Reason.STALE or member is None or member.idle, "who computes is waited for"
            if verdict.reason is Reason.UNKNOWN_MEMBER:
                self.join_again(worker, verdict)
            else:
                assert verdict.reason is Reason.NOT_YOURS or verdict.reason is Reason.STALE
                worker.pending = None

    def die(self) -> None:
        """Silent from now on."""
        self.workers.pop(self.random.choice(WORKERS), None)

    def lose_replies(self) -> None:
        """From now on these workers do not get the answers to their pushes, and have to send them again."""
        self.deaf = set(self.random.sample(WORKERS, self.random.randint(0, 2)))

    def restart_the_coordinator(self) -> None:
        """It knows what is durable; the members come again, and may hold on to partitions that are another's now."""
        old = self.sequencer
        self.sequencer = Sequencer(old.offsets, old.settings, self.seen, old.index, old.applied)

    def wait(self) -> None:
        self.now += self.random.choice((0.1, 2.6, 11.0))
        self.sequencer.expire(self.now)
        self.sequencer.rebalance(self.now)

    def check(self) -> None:
        # Every event counts once, in order.
        assert not self.counted or max(self.counted.values()) == 1
        assert set(self.counted) == {f"{p}-{o}" for p, end in self.sequencer.offsets.items() for o in range(end)}
        assert self.order_indices == list(range(1, len(self.order_indices) + 1))
        assert all(0 <= found <= BOUND for found in self.staleness)
        # No partition is planned twice, none is forgotten.
        members, assignment = self.sequencer.members, self.sequencer.assignment
        held = [p for name in members for p in assignment.held_by(name)]
        assert len(held) == len(set(held))
        assert not members or all(holder in members for holder in assignment.holders.values())
        # A held push waits for somebody who computes.
        waiting = {push.worker for push in self.sequencer.held}
        assert not waiting or any(m.name not in waiting and not m.idle for m in members.values())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_order_of_messages_and_deaths_counts_every_event_once(seed: int) -> None:
    Group(seed).run(150)


def test_the_simulation_reaches_what_it_is_about() -> None:
    groups = [Group(seed) for seed in range(10)]
    for group in groups:
        group.run(150)
    assert sum(len(group.order_indices) for group in groups) > 200
    assert max(max(group.staleness, default=0) for group in groups) >= BOUND - len(WORKERS)
    assert sum(group.sequencer.assignment.moves for group in groups) > 20


def test_an_event_id_in_two_pushes_at_once_is_trained_by_one_of_them() -> None:
    seen: set[str] = set()
    sequencer = Sequencer({0: 0, 1: 0}, GroupSettings(staleness_bound=BOUND), seen)
    workers = [Worker("a", 1), Worker("b", 1)]
    for worker in workers:
        sequencer.join(worker.name, 1, 0.0)
    sequencer.assignment.aim({0: "a", 1: "b"})
    for worker in workers:
        sequencer.hear(worker.name, 1, sequencer.assignment.generation, 0.0)
        sequencer.told(worker.name, idle=False)
    row = LedgerRow(partition=0, offset=0, batch=1, trained=True, event_id="twice")
    for partition, worker in enumerate(workers):
        push = msgspec.structs.replace(push_of(worker, {partition: (0, 1)}), rows=[row])
        assert sequencer.submit(push, 0.0) is None
    ordered = [push.worker for _, pushes in sequencer.ready() for push in pushes]
    assert len(ordered) == 1
    seen.add("twice")
    ((push, refused),) = sequencer.refused()
    assert push.worker not in ordered
    assert (refused.reason, refused.event_ids) == (Reason.DUPLICATE, ["twice"])
