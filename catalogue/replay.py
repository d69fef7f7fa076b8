"""The replay of a data set: its events in time order, simultaneous ones in an order drawn from a seed.

A user's events of one timestamp form a block. Files list a block by ascending item id or in some other order
that a model can learn and a live user would not follow, so blocks are shuffled inside, and blocks of one
timestamp among themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

from catalogue.datasets import Dataset
from contracts.event import Event

CHUNK = 4096
"""Rows turned into Python numbers at once while iterating."""


@dataclass(frozen=True, eq=False)
class Timeline:
    """Events of a data set in replay order: numpy columns at once, `Event`s one by one as they are asked for.

    `timeline[i]` is an `Event`, `timeline[a:b]` a timeline, and iterating yields `Event`s. An event's id is
    `<data set>-<row in the data set's canonical order>`: the same under every seed and in every slice.

    Attributes:
        dataset: where the events, users and items are.
        order: `[E]` int64, rows of the data set in replay order.
        block: `[E]` int64, ascending; equal for the events of one user at one timestamp, which are adjacent.
    """

    dataset: Dataset
    order: NDArray[np.int64]
    block: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of events."""
        return len(self.order)

    @cached_property
    def user(self) -> NDArray[np.int32]:
        """`[E]` int32, indexes into `dataset.users`."""
        return self.dataset.user[self.order]

    @cached_property
    def item(self) -> NDArray[np.int32]:
        """`[E]` int32, indexes into `dataset.items`."""
        return self.dataset.item[self.order]

    @cached_property
    def timestamp(self) -> NDArray[np.int64]:
        """`[E]` int64, unix seconds, never falling."""
        return self.dataset.timestamp[self.order]

    @cached_property
    def value(self) -> NDArray[np.float32]:
        """`[E]` float32, ratings or quantities; NaN where there is none."""
        return self.dataset.value[self.order]

    @overload
    def __getitem__(self, key: int) -> Event: ...

    @overload
    def __getitem__(self, key: slice) -> Timeline: ...

    def __getitem__(self, key: int | slice) -> Event | Timeline:
        """The event at an index, or the timeline of a slice (of step 1)."""
        if isinstance(key, slice):
            if key.step not in (None, 1):
                raise ValueError("a timeline runs forwards, event by event; slice it with step 1")
            return Timeline(self.dataset, self.order[key], self.block[key])
        return self.event(key)

    def event(self, index: int) -> Event:
        """The event at `index`; IndexError past the end."""
        return next(self._events(np.array([self.order[index]])))

    def __iter__(self) -> Iterator[Event]:
        """The events, first to last."""
        for start in range(0, len(self), CHUNK):
            yield from self._events(self.order[start : start + CHUNK])

    def _events(self, rows: NDArray[np.int64]) -> Iterator[Event]:
        data = self.dataset
        columns = (rows, data.user[rows], data.item[rows], data.timestamp[rows], data.value[rows])
        for row, user, item, timestamp, value in zip(*(column.tolist() for column in columns), strict=True):
            yield Event(
                event_id=f"{data.name}-{row:06d}",
                event_type=data.event_type,
                user_id=data.users[user],
                item_id=data.items[item].item_id,
                timestamp=float(timestamp),
                value=None if value != value else value,  # NaN is the one value that differs from itself
            )


def timeline(dataset: Dataset, seed: int = 0, *, published_order: bool = False) -> Timeline:
    """All events of `dataset` in time order.

    Args:
        seed: draws the order of blocks at one timestamp, and of the events in a block. The draws are PCG64's raw
            stream, which numpy keeps the same across versions.
        published_order: keep a block's events in the order in which papers read them (leave-one-out on Amazon
            Sports, to be comparable) instead of a drawn one.

    Raises:
        ValueError: `published_order` of a data set that has none.
    """
    block_of_row, blocks = _blocks(dataset)
    bits = np.random.PCG64(seed)
    block_key = bits.random_raw(blocks)[block_of_row]
    event_key = bits.random_raw(len(dataset))
    if published_order:
        if dataset.sequence is None:
            raise ValueError(f"{dataset.name} has no published order; leave published_order out")
        event_key = dataset.sequence.astype(np.uint64)
    order = np.lexsort((event_key, block_of_row, block_key, dataset.timestamp))
    starts = np.diff(block_of_row[order], prepend=-1) != 0
    return Timeline(dataset, order, np.cumsum(starts) - 1)


def split(line: Timeline, *fractions: float) -> tuple[Timeline, ...]:
    """`line` cut in time at each fraction of its events: `split(line, 0.8)` gives two parts, (0.7, 0.8) three.

    A cut falls on the last change of timestamp at or before the fraction, so every event of a part is younger
    than the part before it: no block is cut in two, and no part knows another's moment.

    Raises:
        ValueError: a fraction outside [0, 1], or fractions that fall.
    """
    if not all(0 <= fraction <= 1 for fraction in fractions) or list(fractions) != sorted(fractions):
        raise ValueError(f"fractions must rise within 0 and 1, not {', '.join(map(str, fractions))}")
    timestamp = line.timestamp
    cuts = [0]
    for fraction in fractions:
        wanted = int(fraction * len(line))
        cuts.append(wanted if wanted >= len(line) else int(np.searchsorted(timestamp, timestamp[wanted], side="left")))
    cuts.append(len(line))
    return tuple(Timeline(line.dataset, line.order[start:end], line.block[start:end]) for start, end in pairwise(cuts))


def _blocks(dataset: Dataset) -> tuple[NDArray[np.int64], int]:
    """For each row its block's number, and how many there are; rows are canonical: by timestamp, then user."""
    starts = (np.diff(dataset.timestamp, prepend=-1) != 0) | (np.diff(dataset.user, prepend=-1) != 0)
    return np.cumsum(starts) - 1, int(starts.sum())
