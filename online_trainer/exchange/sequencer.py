"""The coordinator's mind: who takes part, which push is ordered when, which worker holds what. No input or output.

The owner process (`owner.py`) hands it messages and the time, makes durable what `ready` returns, and answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from online_trainer.exchange import balance
from online_trainer.exchange.membership import Assignment, Member, WorkerState
from online_trainer.exchange.messages import Order, Push, Pushed, Reason, Refused
from online_trainer.ledger import LedgerRow

_SMOOTHING = 0.3
_LEASE_STEPS = 10
_FIRST_LEASE = 4
"""How much longer before the first push: its step time is not known yet."""
_log = structlog.get_logger(__name__)


class Seen(Protocol):
    """Event ids that are in the weights."""

    def __contains__(self, event_id: str) -> bool: ...


@dataclass(frozen=True)
class GroupSettings:
    """How workers work together.

    Attributes:
        staleness_bound: most orders between the weights of a push and its own; at least the number of workers.
        staleness_power: a push counts (1 + staleness beyond one push of every other worker)^-power.
        lease_seconds: a worker that is silent so long (and ten of its own steps) is lost.
        batch_events: of the fastest worker's batches.
        balance_seconds: least time between two moves of partitions; 0 never moves them, nor changes batch sizes.
    """

    staleness_bound: int = 16
    staleness_power: float = 0.5
    lease_seconds: float = 5.0
    batch_events: int = 64
    balance_seconds: float = 2.0


class Sequencer:
    """Not thread-safe. `index`, `offsets`, `applied` and the assignment's holders are durable with the orders."""

    def __init__(
        self,
        offsets: Mapping[int, int],
        settings: GroupSettings,
        seen: Seen,
        index: int = 0,
        applied: Mapping[str, tuple[int, int, int]] | None = None,
    ) -> None:
        self.settings = settings
        self.index = index
        self.offsets = dict(offsets)
        self.applied = dict(applied or {})
        """Worker → incarnation, sequence number and order of its newest push."""
        self.members: dict[str, Member] = {}
        self.assignment = Assignment(dict.fromkeys(sorted(offsets)))
        self.held: list[Push] = []
        """Pushes that wait for slower workers, in order of arrival."""
        self.lost_residuals: list[tuple[str, float]] = []
        """Workers that were lost, and the norm of what they had not sent."""
        self._seen = seen
        self._balanced_at = float("-inf")

    def join(self, worker: str, incarnation: int, now: float) -> Member:
        """A worker comes. An earlier incarnation of its name is lost."""
        found = self.members.get(worker)
        if found is not None and found.incarnation != incarnation:
            self.lose(worker)
            found = None
        if found is None:
            found = self.members[worker] = Member(worker, incarnation, now)
            found.batch_events = self.settings.batch_events
            known = self.applied.get(worker)
            if known is not None and known[0] == incarnation:
                found.seq = known[1]
            self._balanced_at = float("-inf")
        found.heard_at = now
        if found.state is WorkerState.JOINING:
            found.become(WorkerState.SYNCING)
        self.rebalance(now)
        return found

    def hear(self, worker: str, incarnation: int, generation: int, now: float) -> Member | Refused:
        """Any word from a member: renews its lease."""
        member = self.members.get(worker)
        if member is None or member.incarnation != incarnation:
            return Refused(reason=Reason.UNKNOWN_MEMBER, detail=f"{worker} is no member: join (again)")
        member.heard_at = now
        if member.state in (WorkerState.STALE, WorkerState.SYNCING):
            member.become(WorkerState.TRAINING)
        member.generation = max(member.generation, generation)
        self.assignment.goes_by(worker, generation)
        return member

    def submit(self, push: Push, now: float) -> Refused | int | None:
        """Take a push in. An index: it was ordered before. None: `ready` will have it."""
        member = self.hear(push.worker, push.incarnation, push.generation, now)
        if isinstance(member, Refused):
            return member
        known = self.applied.get(push.worker)
        if known is not None and known[:2] == (push.incarnation, push.seq):
            return known[2]
        if any(held.worker == push.worker and held.seq == push.seq for held in self.held):
            self.held = [held for held in self.held if held.worker != push.worker]
        if (refused := self._refusal(push, member)) is not None:
            return refused
        member.idle = False
        member.waiting = dict(push.waiting)
        self.held.append(push)
        return None

    def ready(self) -> list[tuple[Order, list[Push]]]:
        """The orders that may be made now, in their order, each with its pushes; they count as applied."""
        found = []
        fresh: set[str] = set()
        while (chosen := self._choose()) is not None:
            # Ids ordered in this call are in nobody's `seen` yet: a push that repeats one is refused after it.
            if not _add_distinct(chosen, fresh):
                break
            found.append(self._order(chosen))
        return found

    def refused(self) -> list[tuple[Push, Refused]]:
        """Held pushes that can't be ordered any more: of lost workers, or overtaken by what was ordered since."""
        out = []
        for push in list(self.held):
            member = self.members.get(push.worker)
            if member is None or member.incarnation != push.incarnation:
                self.held.remove(push)
            elif (no := self._refusal(push, member)) is not None:
                self.held.remove(push)
                out.append((push, no))
        return out

    def told(self, worker: str, idle: bool) -> None:
        """The worker is being sent everything up to `index`; what it computes next is based on that."""
        member = self.members[worker]
        member.base, member.idle = self.index, idle

    def leave(self, worker: str) -> None:
        """An orderly end: nothing was lost."""
        if worker in self.members:
            self._remove(worker)

    def lose(self, worker: str) -> None:
        """A worker is gone with what it had not sent."""
        member = self.members[worker]
        self.lost_residuals.append((worker, member.residual_norm))
        _log.warning("worker_lost", worker=worker, unsent_residual_norm=member.residual_norm)
        self._remove(worker)

    def expire(self, now: float) -> list[str]:
        """Lose whoever has been silent too long; their names."""
        lost = []
        for member in list(self.members.values()):
            lease = max(self.settings.lease_seconds, _LEASE_STEPS * member.step_seconds)
            if not member.speed:
                lease *= _FIRST_LEASE
            silent = now - member.heard_at
            waits = any(held.worker == member.name for held in self.held)
            if waits:
                # It waits for this end's answer; its socket tells nothing, so its lease counts from the last resend.
                lease *= 2
            if silent > lease:
                self.lose(member.name)
                lost.append(member.name)
            elif silent > lease / 2 and member.state is WorkerState.TRAINING:
                member.become(WorkerState.STALE)
        if lost:
            self._balanced_at = float("-inf")
            self.rebalance(now)
        return lost

    def rebalance(self, now: float) -> None:
        """Give orphans to somebody; at most every `balance_seconds` move partitions and set batch sizes."""
        if not self.members:
            return
        orphans = any(holder is None for holder in self.assignment.holders.values())
        settings = self.settings
        due = now - self._balanced_at >= settings.balance_seconds and settings.balance_seconds > 0
        forced = self._balanced_at == float("-inf")
        if not (orphans or due or forced):
            return
        self._balanced_at = now
        known = [member.speed for member in self.members.values() if member.speed]
        default = sum(known) / len(known) if known else 1.0
        speeds = {name: member.speed or default for name, member in self.members.items()}
        loads = self._loads()
        if settings.balance_seconds > 0 or orphans or forced:
            self.assignment.aim(balance.assign(self.assignment.holders, loads, speeds))
        if settings.balance_seconds > 0:
            for name, size in balance.batch_events(speeds, settings.batch_events).items():
                self.members[name].batch_events = size

    def partitions_of(self, worker: str) -> dict[int, int]:
        """What the worker may plan with, and from which offset."""
        return {partition: self.offsets[partition] for partition in self.assignment.held_by(worker)}

    def _loads(self) -> dict[int, float]:
        """Partition → work: what waits there, and one for what will come."""
        waiting: dict[int, float] = dict.fromkeys(self.offsets, 1.0)
        for member in self.members.values():
            for partition, events in member.waiting.items():
                if self.assignment.may_push(member.name, partition):
                    waiting[partition] = 1.0 + events
        return waiting

    def _refusal(self, push: Push, member: Member) -> Refused | None:
        if push.seq != member.seq + 1:
            return Refused(
                reason=Reason.SEQUENCE, detail=f"{push.worker}: push {push.seq} where {member.seq + 1} comes next"
            )
        bound = self.settings.staleness_bound
        if not 0 <= self.index - push.base <= bound:
            detail = f"computed on {push.base}, the log is at {self.index}, the bound {bound}"
            return Refused(reason=Reason.STALE, detail=detail)
        for partition, (first, end) in push.ranges.items():
            if not self.assignment.may_push(push.worker, partition):
                return Refused(reason=Reason.NOT_YOURS, detail=f"partition {partition} is not {push.worker}'s")
            if first != self.offsets[partition] or end < first:
                return Refused(
                    reason=Reason.NOT_YOURS,
                    detail=f"partition {partition}: {first} to {end} where {self.offsets[partition]} comes next",
                )
        return self._duplicates(push.rows)

    def _duplicates(self, rows: list[LedgerRow]) -> Refused | None:
        ids = [row.event_id for row in rows if row.trained and row.event_id is not None and row.event_id in self._seen]
        if not ids:
            return None
        return Refused(reason=Reason.DUPLICATE, detail=f"{len(ids)} events are in the weights already", event_ids=ids)

    def _choose(self) -> Push | None:
        """The push of the next order; None when it is not time."""
        if not self.held:
            return None
        waiting = {push.worker for push in self.held}
        computing = [
            member
            for member in self.members.values()
            if member.name not in waiting and not member.idle and member.state is not WorkerState.LOST
        ]
        oldest = min(self.held, key=lambda push: push.base)
        # Each worker whose push is held may still be passed by one push of every other.
        reach = self.settings.staleness_bound - len(self.members) + 1
        if any(self.index + 1 - member.base > reach and member.base <= oldest.base for member in computing):
            return None
        return oldest

    def _order(self, push: Push) -> tuple[Order, list[Push]]:
        self.held.remove(push)
        staleness = self.index - push.base
        # A group's usual staleness is one push of every other worker; only what is beyond counts less.
        excess = max(0, staleness - len(self.members) + 1)
        pushed = Pushed(
            worker=push.worker,
            incarnation=push.incarnation,
            seq=push.seq,
            base=push.base,
            staleness=staleness,
            scale=(1.0 + excess) ** -self.settings.staleness_power,
            encoding=push.encoding,
            start=push.start,
            stop=push.stop,
        )
        order = Order(index=self.index + 1, pushes=[pushed])
        self.take(order, push)
        self._measure(self.members[push.worker], push)
        self.index = order.index
        return order, [push]

    def take(self, order: Order, push: Push) -> None:
        """Count an ordered push; also for one that is read from the write-ahead log."""
        for partition, (_, end) in push.ranges.items():
            self.offsets[partition] = end
        self.applied[push.worker] = (push.incarnation, push.seq, order.index)
        if (member := self.members.get(push.worker)) is not None and member.incarnation == push.incarnation:
            member.seq = push.seq

    def _measure(self, member: Member, push: Push) -> None:
        member.residual_norm = push.residual_norm
        member.step_seconds = max(push.measured.compute_seconds, 0.9 * member.step_seconds)
        if push.measured.compute_seconds > 0 and push.examples:
            speed = push.examples / push.measured.compute_seconds
            member.speed = speed if not member.speed else member.speed + _SMOOTHING * (speed - member.speed)

    def _remove(self, worker: str) -> None:
        member = self.members.pop(worker)
        member.become(WorkerState.LOST)
        self.held = [push for push in self.held if push.worker != worker]
        self.assignment.gone(worker)


def _add_distinct(push: Push, fresh: set[str]) -> bool:
    """Add the push's trained ids to `fresh`, unless one of them is there."""
    ids = {row.event_id for row in push.rows if row.trained and row.event_id is not None}
    if ids & fresh:
        return False
    fresh |= ids
    return True
