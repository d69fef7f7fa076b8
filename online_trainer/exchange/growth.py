"""New items in a group: owner 0 decides, and an order carries their rows to every replica."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from contracts.item import Item
from online_trainer.exchange.layout import FlatLayout
from online_trainer.exchange.messages import AddedRows
from online_trainer.growth import Newcomers
from online_trainer.item_feed import ItemFeed
from recommender.cold_start import with_items
from recommender.loading import Recommender
from streams.event_log import LogUnavailable

_LOOK_SECONDS = 0.2


class BackgroundFeed:
    """An `ItemFeed` that a thread follows: the owner's loop must not wait for a broker that is away.

    Args:
        feed: has been read to the topic's end.
    """

    def __init__(self, feed: ItemFeed) -> None:
        self._feed = feed
        self._seen: Mapping[str, Item] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="items", daemon=True)
        self._thread.start()

    @property
    def items(self) -> Mapping[str, Item]:
        """By id; as of the last `look`."""
        return self._seen

    def look(self) -> bool:
        """Whether anything has changed since the last call."""
        before, self._seen = self._seen, self._feed.items
        return before is not self._seen

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._feed.close()

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                self._feed.look()
            except LogUnavailable:
                # Workers wait for the log too, and say so.
                continue


class GroupGrowth:
    """The orders that add items. For the owner's thread.

    Args:
        recommender: the model folder's, its weights those that learn, laid out as `layout`.
    """

    def __init__(self, recommender: Recommender, layout: FlatLayout, newcomers: Newcomers) -> None:
        self._folder = self._known = recommender
        self._added: tuple[str, ...] = ()
        self._layout = layout
        self._newcomers = newcomers

    def next(self, added: tuple[str, ...]) -> AddedRows | None:
        """What comes behind the items `added` so far; None when nothing does."""
        if added != self._added:
            self._known, self._added = with_items(self._folder, added), added
        new = self._newcomers.of(self._known, after=0)
        if new is None:
            return None
        first = self._known.vocabulary.item_tokens.stop
        rows = {self._layout.row_start(name, first): data for name, data in new.starts.items()}
        return AddedRows(item_ids=new.item_ids, rows=rows)

    def close(self) -> None:
        """Stop reading."""
        self._newcomers.close()
