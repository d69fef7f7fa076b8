"""What the trainer remembers of the events it has passed: histories by user, and which event ids it has seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import torch

from online_trainer.ledger import LedgerRow, Untrained
from recommender.history import History, Interaction


class DedupeWindow:
    """The last `capacity` event ids of each partition.

    An id that comes again within the window is a duplicate, in whatever partition. Its bound: an id that comes again
    after more than `capacity` other records of its partition is trained again. Clients retry within minutes; 50,000
    records at 100 events/s over 4 partitions are half an hour.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"dedupe window of {capacity}: take at least 1")
        self._capacity = capacity
        self._windows: dict[int, deque[str]] = {}
        """Partition → its ids, oldest first."""
        self._counts: dict[str, int] = {}
        """Id → windows that hold it: one, but for what workers tell one another. One look-up an event."""

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._counts

    def add_new(self, partition: int, event_id: str) -> bool:
        """`add` an id that no window has; False for one that is known."""
        if event_id in self._counts:
            return False
        window = self._windows.get(partition)
        if window is None:
            window = self._windows[partition] = deque()
        window.append(event_id)
        self._counts[event_id] = 1
        if len(window) > self._capacity:
            self._forget(window.popleft())
        return True

    def add(self, partition: int, event_id: str) -> None:
        """Remember an id; the oldest of a full window is forgotten. One that the window has stays where it is."""
        if self.add_new(partition, event_id):
            return
        window = self._windows.setdefault(partition, deque())
        if event_id not in window:
            window.append(event_id)
            self._counts[event_id] += 1
            if len(window) > self._capacity:
                self._forget(window.popleft())

    def of(self, partition: int) -> list[str]:
        """A partition's ids, oldest first."""
        return list(self._windows.get(partition, ()))

    def replace(self, partition: int, event_ids: Iterable[str]) -> None:
        """Make these a partition's ids; none forgets it."""
        for event_id in self._windows.get(partition, ()):
            self._forget(event_id)
        self._windows[partition] = deque(dict.fromkeys(event_ids))
        for event_id in self._windows[partition]:
            self._counts[event_id] = self._counts.get(event_id, 0) + 1

    def _forget(self, event_id: str) -> None:
        count = self._counts.pop(event_id)
        if count > 1:
            self._counts[event_id] = count - 1


class Histories:
    """Each user's last `length` events, oldest first, and draws of users to learn again.

    Attributes:
        REPLAY_EVENTS: a draw is of the last so many events of all users: in proportion to their events, the old
            forgotten.
    """

    REPLAY_EVENTS = 100_000

    def __init__(self, length: int) -> None:
        self._length = length
        self._users: dict[str, History] = {}
        self._ring: list[str] = []
        self._count = 0

    def of(self, user_id: str) -> Sequence[Interaction]:
        """The user's events so far; empty for a new user."""
        return self._users.get(user_id, ())

    def of_all(self, user_ids: Iterable[str]) -> list[Sequence[Interaction]]:
        """`of` each."""
        get = self._users.get
        return [get(user_id, ()) for user_id in user_ids]

    def add(self, user_id: str, interaction: Interaction) -> None:
        """Append an event."""
        history = self._users.get(user_id)
        if history is None:
            history = self._users[user_id] = History(length=self._length)
        history.append(interaction)
        if self._count < self.REPLAY_EVENTS:
            self._ring.append(user_id)
        else:
            self._ring[self._count % self.REPLAY_EVENTS] = user_id
        self._count += 1

    def replace(self, user_id: str, events: Iterable[Interaction]) -> None:
        """Make these the user's events, oldest first."""
        self._users.pop(user_id, None)
        for event in events:
            self.add(user_id, event)

    def draw(self, count: int) -> list[Sequence[Interaction]]:
        """The histories of the users of `count` events drawn at random, by torch's random state; none of none."""
        if not self._ring:
            return []
        return [self._users[self._ring[place]] for place in torch.randint(len(self._ring), (count,)).tolist()]


class Users:
    """Histories and dedupe windows together: a function of the ledger's rows in their order."""

    def __init__(self, history_length: int, dedupe_capacity: int) -> None:
        self.histories = Histories(history_length)
        self.seen = DedupeWindow(dedupe_capacity)
        self.partition_of: dict[str, int] = {}
        """User → the partition of the newest event: a producer that keys by user has one for each."""

    def take(self, row: LedgerRow) -> None:
        """Remember what a ledger row tells."""
        if row.event_id is None or row.user_id is None or row.item_id is None or row.timestamp is None:
            return
        if row.reason is not Untrained.DUPLICATE:
            self.seen.add(row.partition, row.event_id)
            self.histories.add(row.user_id, Interaction(row.item_id, row.timestamp))
            self.partition_of[row.user_id] = row.partition

    def take_all(self, rows: Iterable[LedgerRow]) -> None:
        """`take` each."""
        for row in rows:
            self.take(row)
