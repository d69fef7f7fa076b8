"""A data set: columns of events over a list of users and a list of items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogue.datasets.errors import UnreadableData
from contracts.item import Item


@dataclass(frozen=True)
class Rows:
    """A file's rows as its reader found them, in any order, all columns of one length.

    Attributes:
        user_ids, item_ids: as the file writes them.
        timestamps: unix seconds.
        values: rating or quantity; None where the file has none.
        sequence: the row's position in its user's sequence as published; None where the file has none.
    """

    user_ids: Sequence[str]
    item_ids: Sequence[str]
    timestamps: NDArray[np.int64]
    values: NDArray[np.float32] | None = None
    sequence: NDArray[np.int32] | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Events as numpy columns, in canonical order: by timestamp, user, item, value, whatever order the file had.

    Attributes:
        name: `ml-100k`, …
        event_type: of every event: `rating`, `purchase`, `review`.
        repeats: whether people take an item again (groceries: yes, films: no); says whether to mask seen items.
        users: user ids; numbers in numeric order, before words in theirs.
        items: the whole catalogue, ordered likewise by item id, items without an event included.
        user, item: `[E]` int32, indexes into `users` and `items`.
        timestamp: `[E]` int64, unix seconds at the source's resolution.
        value: `[E]` float32, a rating or a quantity; NaN where the source has none.
        sequence: `[E]` int32, position in the user's published sequence, or None.
    """

    name: str
    event_type: str
    repeats: bool
    users: list[str]
    items: list[Item]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64]
    value: NDArray[np.float32]
    sequence: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """The number of events."""
        return len(self.timestamp)

    @property
    def item_ids(self) -> list[str]:
        """The items' ids, in the items' order."""
        return [item.item_id for item in self.items]


def build(name: str, event_type: str, items: Iterable[Item], rows: Rows, *, repeats: bool = False) -> Dataset:
    """A `Dataset` of `rows` over the catalogue `items`, both in any order.

    Raises:
        UnreadableData: no rows, two items of one id, an event of an item that `items` lacks, a timestamp below 0.
    """
    catalogue = sorted(items, key=lambda item: natural_key(item.item_id))
    item_index = {item.item_id: index for index, item in enumerate(catalogue)}
    _check(name, catalogue, item_index, rows)
    users = sorted(set(rows.user_ids), key=natural_key)
    user_index = {user_id: index for index, user_id in enumerate(users)}
    user = np.fromiter(map(user_index.__getitem__, rows.user_ids), np.int32, len(rows.user_ids))
    item = np.fromiter(map(item_index.__getitem__, rows.item_ids), np.int32, len(rows.item_ids))
    value = np.full(len(user), np.nan, np.float32) if rows.values is None else rows.values
    sequence = np.zeros(len(user), np.int32) if rows.sequence is None else rows.sequence
    order = np.lexsort((sequence, value, item, user, rows.timestamps))
    return Dataset(
        name=name,
        event_type=event_type,
        repeats=repeats,
        users=users,
        items=catalogue,
        user=user[order],
        item=item[order],
        timestamp=rows.timestamps[order],
        value=value[order],
        sequence=None if rows.sequence is None else sequence[order],
    )


def natural_key(identifier: str) -> tuple[int, int, str]:
    """A sort key under which `9` comes before `10`, and numbers before words."""
    return (0, int(identifier), identifier) if identifier.isdecimal() else (1, 0, identifier)


def _check(name: str, catalogue: list[Item], item_index: dict[str, int], rows: Rows) -> None:
    if len(rows.user_ids) == 0:
        raise UnreadableData(f"{name}: the events file has no rows")
    if len(item_index) != len(catalogue):
        raise UnreadableData(f"{name}: {len(catalogue) - len(item_index)} item ids occur twice in the items file")
    strangers = set(rows.item_ids) - item_index.keys()
    if strangers:
        examples = ", ".join(repr(item_id) for item_id in sorted(strangers)[:3])
        raise UnreadableData(
            f"{name}: {len(strangers)} item ids of the events file are not in the items file: {examples}"
        )
    if rows.timestamps.min() < 0:
        raise UnreadableData(f"{name}: a timestamp is below 0; unix seconds are wanted")
