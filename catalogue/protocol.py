"""What an honest evaluation needs of a timeline: blocks with the history before them, firsts, leave-one-out.

Scores nothing itself. A user's events of one instant are one block: all of its items are asked for from the
state before the block, and only then learned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogue.replay import Timeline


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One user's events of one instant.

    Attributes:
        user: index into the data set's users.
        timestamp: unix seconds.
        start: the first event's position in the timeline; the state before the block is that of `[0, start)`.
        items: `[N]` int32, the block's items in replay order.
        history: `[H]` int32, the user's items before the block, oldest first.
    """

    user: int
    timestamp: int
    start: int
    items: NDArray[np.int32]
    history: NDArray[np.int32]


class UserHistories:
    """Every user's items in replay order, so that a history at any position is a slice and costs no copy."""

    def __init__(self, line: Timeline) -> None:
        user = line.user
        grouped = np.argsort(user, kind="stable")
        first = np.searchsorted(user[grouped], np.arange(len(line.dataset.users) + 1))
        self._items = line.item[grouped]
        self._first = first
        self._place = np.empty(len(line), np.int64)
        self._place[grouped] = np.arange(len(line))
        self._user = user

    def before(self, position: int) -> NDArray[np.int32]:
        """The items that the user of the event at `position` had before it, oldest first."""
        return self._items[self._first[self._user[position]] : self._place[position]]


def blocks(line: Timeline, start: int = 0) -> Iterator[Block]:
    """The blocks of `line` from position `start` on, in time order; histories reach back to `line`'s beginning.

    Raises:
        ValueError: `start` lies within a block.
    """
    if 0 < start < len(line) and line.block[start] == line.block[start - 1]:
        raise ValueError(f"position {start} lies within a block; take it from catalogue.replay.split")
    histories = UserHistories(line)
    user, item, timestamp = line.user, line.item, line.timestamp
    edges = np.flatnonzero(np.diff(line.block[start:], prepend=-1)) + start
    for first, last in zip(edges, [*edges[1:], len(line)], strict=True):
        yield Block(
            user=int(user[first]),
            timestamp=int(timestamp[first]),
            start=int(first),
            items=item[first:last],
            history=histories.before(first),
        )


def births(line: Timeline) -> NDArray[np.int64]:
    """`[I]` int64: the position of each item's first event, `len(line)` for an item without one.

    An item is born when asked at position `p` if its birth is below `p`; one that is not is a miss for everyone.
    """
    born = np.full(len(line.dataset.items), len(line), np.int64)
    np.minimum.at(born, line.item, np.arange(len(line)))
    return born


def is_first(line: Timeline) -> NDArray[np.bool_]:
    """`[E]` bool: whether the event is its user's first with its item (a first purchase, not a repeat)."""
    pair = line.user.astype(np.int64) * len(line.dataset.items) + line.item
    first = np.zeros(len(line), np.bool_)
    first[np.unique(pair, return_index=True)[1]] = True
    return first


@dataclass(frozen=True, slots=True, eq=False)
class LeaveOneOut:
    """Positions in the timeline, `[U]` int64 over the users with at least three events, by user.

    Attributes:
        test: each user's last event; its history is everything before it.
        validation: each user's last but one.
    """

    test: NDArray[np.int64]
    validation: NDArray[np.int64]


def leave_one_out(line: Timeline) -> LeaveOneOut:
    """Hold out each user's last two events; what remains is for training.

    Raises:
        ValueError: the data set has repeats; a basket's last line says nothing there.
    """
    if line.dataset.repeats:
        raise ValueError(f"{line.dataset.name} has repeats and baskets: split it by time, not leave-one-out")
    grouped = np.argsort(line.user, kind="stable")
    counts = np.bincount(line.user, minlength=len(line.dataset.users))
    ends = np.cumsum(counts)[counts >= 3]
    return LeaveOneOut(test=grouped[ends - 1], validation=grouped[ends - 2])
