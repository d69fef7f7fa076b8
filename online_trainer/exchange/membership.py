"""Workers as the coordinator sees them: states, and who holds which partition."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class WorkerState(StrEnum):
    """Where a worker stands."""

    JOINING = "joining"
    SYNCING = "syncing"
    TRAINING = "training"
    STALE = "stale"
    LOST = "lost"


TRANSITIONS: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.JOINING: frozenset({WorkerState.SYNCING, WorkerState.LOST}),
    WorkerState.SYNCING: frozenset({WorkerState.TRAINING, WorkerState.STALE, WorkerState.LOST}),
    WorkerState.TRAINING: frozenset({WorkerState.STALE, WorkerState.LOST}),
    WorkerState.STALE: frozenset({WorkerState.TRAINING, WorkerState.SYNCING, WorkerState.LOST}),
    WorkerState.LOST: frozenset({WorkerState.JOINING}),
}
"""`stale`: silent for half its lease. `lost`: for all of it, gone by its own word, or replaced."""


@dataclass
class Member:
    """One worker, in one incarnation.

    Attributes:
        heard_at: monotonic seconds.
        seq: of its newest ordered push.
        base: index of the weights it computes on.
        idle: nobody waits for it.
        generation: the assignment it goes by.
        speed: events a second, smoothed; 0 before the first push.
        batch_events: what it is told.
        step_seconds: longest of its recent steps; its lease allows for ten of them.
        residual_norm: of its newest push.
        waiting: partition → offsets that wait, by its own account.
    """

    name: str
    incarnation: int
    heard_at: float
    state: WorkerState = WorkerState.JOINING
    seq: int = 0
    base: int = 0
    idle: bool = True
    generation: int = 0
    speed: float = 0.0
    batch_events: int = 0
    step_seconds: float = 0.0
    residual_norm: float = 0.0
    waiting: dict[int, int] = field(default_factory=dict)

    def become(self, state: WorkerState) -> None:
        """Change state.

        Raises:
            ValueError: not a transition of the table.
        """
        if state is self.state:
            return
        if state not in TRANSITIONS[self.state]:
            raise ValueError(f"worker {self.name} can't go from {self.state} to {state}")
        self.state = state


class Assignment:
    """Partition → holder, under a generation that rises with every change.

    A partition that is to move is first taken from its holder (`wanted` names the next one) and changes hands when the
    holder has spoken under a generation that no longer had it, or is gone.
    """

    def __init__(self, holders: dict[int, str | None], generation: int = 0) -> None:
        self.holders = dict(holders)
        self.generation = generation
        self.moves = 0
        """Partitions that changed hands."""
        self._wanted: dict[int, str] = {}
        self._revoked_at: dict[int, int] = {}

    def held_by(self, worker: str) -> list[int]:
        """What the worker may plan with."""
        return [p for p, holder in self.holders.items() if holder == worker and p not in self._wanted]

    def may_push(self, worker: str, partition: int) -> bool:
        """Whether a push of the worker may cover the partition: also while it is being taken from it."""
        return self.holders.get(partition) == worker

    def aim(self, target: dict[int, str]) -> None:
        """Let every partition come to its worker in `target`."""
        before = (dict(self.holders), dict(self._wanted))
        for partition, worker in target.items():
            holder = self.holders[partition]
            if holder is None:
                self.holders[partition] = worker
                self._wanted.pop(partition, None)
                self.moves += 1
            elif holder == worker:
                self._wanted.pop(partition, None)
            elif self._wanted.get(partition) != worker:
                self._wanted[partition] = worker
                self._revoked_at.setdefault(partition, self.generation + 1)
        if before != (self.holders, self._wanted):
            self.generation += 1
        self._revoked_at = {p: g for p, g in self._revoked_at.items() if p in self._wanted}

    def goes_by(self, worker: str, generation: int) -> None:
        """The worker has let go of what `generation` took from it."""
        moving = [p for p, at in self._revoked_at.items() if self.holders[p] == worker and generation >= at]
        for partition in moving:
            self.holders[partition] = self._wanted.pop(partition)
            del self._revoked_at[partition]
            self.moves += 1
        if moving:
            self.generation += 1

    def gone(self, worker: str) -> None:
        """The worker holds nothing any more, nor is anything meant for it."""
        for partition, wanted in list(self._wanted.items()):
            if wanted == worker:
                del self._wanted[partition], self._revoked_at[partition]
        for partition, holder in self.holders.items():
            if holder == worker:
                self.holders[partition] = self._wanted.pop(partition, None)
                self._revoked_at.pop(partition, None)
        self.generation += 1
