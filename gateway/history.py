"""Histories: each user's last items for the prompt, and everything they have seen for exclusion.

`InProcessHistories` has the methods of the design's `HistoryStore` seam. It keeps everything in memory and is rebuilt
from the events topic at every start (`gateway.log_tail`).
"""

from __future__ import annotations

import threading
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from contracts.event import Event


class HistoryEntry(NamedTuple):
    """One interaction; `offset` in the user's partition orders them."""

    offset: int
    item_id: str
    event_type: str
    timestamp: float


class HistoryView(NamedTuple):
    """A user's history at one moment.

    Attributes:
        items: the last items, oldest first, repeats kept.
        seen: distinct items.
        length: how many distinct events the user has in the log, those that `items` has dropped included.
    """

    items: list[str]
    seen: list[str]
    length: int


@dataclass(slots=True)
class _User:
    entries: list[HistoryEntry] = field(default_factory=list)
    seen: dict[str, None] = field(default_factory=dict)
    length: int = 0


class RecentIds:
    """The last `capacity` distinct ids that were added; older ones are forgotten, oldest first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ids: dict[str, None] = {}

    def __contains__(self, event_id: str) -> bool:
        return event_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, event_id: str) -> bool:
        """False when it is already there."""
        if event_id in self._ids:
            return False
        self._ids[event_id] = None
        if len(self._ids) > self._capacity:
            del self._ids[next(iter(self._ids))]
        return True


class InProcessHistories:
    """A user's last N events with read-your-writes. Thread-safe.

    Two writers feed it: a request that has its acknowledgement, and the reader of the log, which meets the same event
    again. An `event_id` counts once, whoever comes first, and a history is ordered by offset, whoever comes late: it
    is the order that the trainer sees.

    Args:
        length: entries kept a user.
        seen_limit: distinct items kept a user; past it the one seen first is forgotten.
        dedupe_window: event ids remembered.
    """

    def __init__(self, length: int, seen_limit: int, dedupe_window: int) -> None:
        self._length = length
        self._seen_limit = seen_limit
        self._known = RecentIds(dedupe_window)
        self._users: dict[str, _User] = {}
        self._lock = threading.Lock()

    def apply(self, events: Iterable[tuple[Event, int]]) -> list[Event]:
        """Add (event, offset) pairs; returns the events that were not known yet."""
        with self._lock:
            new = [(event, offset) for event, offset in events if self._known.add(event.event_id)]
            for event, offset in new:
                self._add(event, offset)
        return [event for event, _ in new]

    def knows(self, event_id: str) -> bool:
        """Whether an event of this id has been applied within the dedupe window."""
        return event_id in self._known

    def view(self, user_id: str) -> HistoryView:
        """What a recommendation needs; empty for a user without events."""
        with self._lock:
            user = self._users.get(user_id)
            if user is None:
                return HistoryView([], [], 0)
            return HistoryView([entry.item_id for entry in user.entries], list(user.seen), user.length)

    def entries(self, user_id: str) -> list[HistoryEntry]:
        """The kept entries, oldest first."""
        with self._lock:
            user = self._users.get(user_id)
            return list(user.entries) if user else []

    def __len__(self) -> int:
        return len(self._users)

    def _add(self, event: Event, offset: int) -> None:
        user = self._users.get(event.user_id)
        if user is None:
            user = self._users[event.user_id] = _User()
        entry = HistoryEntry(offset, event.item_id, event.event_type, event.timestamp)
        if not user.entries or offset > user.entries[-1].offset:
            user.entries.append(entry)
        else:
            insort(user.entries, entry)
        if len(user.entries) > self._length:
            del user.entries[0]
        user.length += 1
        user.seen[event.item_id] = None
        if len(user.seen) > self._seen_limit:
            del user.seen[next(iter(user.seen))]
