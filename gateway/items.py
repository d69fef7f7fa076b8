"""The items the gateway can name: from a file or a data set at the start, then from the items topic."""

from __future__ import annotations

from collections.abc import Iterable

from contracts.item import Item


class Items:
    """Items by id. Thread-safe: one dict, written by the log's thread and read by requests.

    Args:
        initial: known before the items topic has been read; the topic's word counts more.
    """

    def __init__(self, initial: Iterable[Item] = ()) -> None:
        self._items = {item.item_id: item for item in initial}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._items

    def get(self, item_id: str) -> Item | None:
        """The item, or None."""
        return self._items.get(item_id)

    def put(self, item: Item) -> None:
        """Add an item or replace the one of its id."""
        self._items[item.item_id] = item

    def remove(self, item_id: str) -> None:
        """Forget an item (a tombstone on the compacted topic)."""
        self._items.pop(item_id, None)

    def ids(self) -> list[str]:
        """Every id, in the order in which they came."""
        return list(self._items)
