"""What a simulated group of workers trains: a backlog, partition by partition, and what is known by then."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from catalogue.replay import Timeline
from online_trainer.exchange.messages import Rule
from online_trainer.users import Histories
from recommender.examples import Interaction, UserUpdate

PARTITIONS = 12
_HISTORY = 1000


@dataclass(frozen=True)
class Run:
    """One way to train, whatever the workers exchange.

    Attributes:
        workers: how many.
        rule: how what they send is written; its `average` is the recipe's.
        slow: worker number → how many times longer its batches take.
        batch_events: of a worker's batch.
        seconds_per_event: of a worker that is not slow.
        link_bytes_per_second: of each worker's link, both ways; 0 for one that costs nothing.
    """

    name: str
    workers: int = 2
    rule: Rule = field(default_factory=Rule)
    slow: dict[int, float] = field(default_factory=dict)
    batch_events: int = 64
    seconds_per_event: float = 0.001
    link_bytes_per_second: float = 0.0

    def compute_seconds(self, worker: int, events: int) -> float:
        """What a batch of so many takes that worker."""
        return self.seconds_per_event * self.slow.get(worker, 1.0) * events


@dataclass(frozen=True)
class Checkpoint:
    """The weights that serve after so many virtual seconds and trained events."""

    seconds: float
    events: int
    weights: Tensor


class Backlog:
    """The events of `line` from position `start` on, each user's in one of `PARTITIONS`; those before are remembered.

    Attributes:
        histories: what the workers know of the users so far.
        partition: of each position.
    """

    def __init__(self, line: Timeline, start: int, seed: int) -> None:
        self._line = line
        self._items, self._users = line.dataset.item_ids, line.dataset.users
        self.partition = np.random.default_rng(seed).integers(PARTITIONS, size=len(self._users))[line.user]
        self._queues = {
            p: deque((start + np.flatnonzero(self.partition[start:] == p)).tolist()) for p in range(PARTITIONS)
        }
        self.histories = Histories(_HISTORY)
        self.remember(range(start))

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def waiting(self, partition: int) -> int:
        """Events of a partition that nobody has taken."""
        return len(self._queues[partition])

    def take(self, partitions: Collection[int], size: int) -> list[int]:
        """The earliest `size` positions of some partitions, which then wait no more."""
        positions: list[int] = []
        heads = [(self._queues[p][0], p) for p in partitions if self._queues[p]]
        heapq.heapify(heads)
        while heads and len(positions) < size:
            _, partition = heapq.heappop(heads)
            queue = self._queues[partition]
            positions.append(queue.popleft())
            if queue:
                heapq.heappush(heads, (queue[0], partition))
        return positions

    def updates(self, positions: Iterable[int]) -> tuple[list[UserUpdate], list[list[int]]]:
        """The events at `positions` user by user, behind what is remembered; and each user's positions."""
        by_user: dict[int, list[int]] = {}
        for position in positions:
            by_user.setdefault(int(self._line.user[position]), []).append(position)
        updates = [
            UserUpdate(self.histories.of(self._users[user]), [self._event(p) for p in found])
            for user, found in by_user.items()
        ]
        return updates, list(by_user.values())

    def remember(self, positions: Iterable[int]) -> None:
        """These are the past from now on."""
        for position in positions:
            self.histories.add(self._users[self._line.user[position]], self._event(position))

    def _event(self, position: int) -> Interaction:
        return Interaction(self._items[self._line.item[position]], float(self._line.timestamp[position]))
