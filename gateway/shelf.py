"""The shelf that is never empty: popularity for users without a history, and for when no model can answer."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable

from catalogue.popularity import Popularity
from contracts.event import Event
from contracts.replica import ScoredItem


class Shelf:
    """Most popular first, by the events of the log; items without an event follow in the catalogue's order.

    Thread-safe.

    Args:
        live: counts the log's events as they come.
        prior: answers until the first of them has come (no broker yet); None ranks in the catalogue's order then.
    """

    def __init__(self, live: Popularity, prior: Popularity | None = None) -> None:
        self._live = live
        self._prior = prior
        self._lock = threading.Lock()

    def add(self, events: Iterable[Event]) -> None:
        """Count events."""
        with self._lock:
            for event in events:
                self._live.add(event.item_id, event.timestamp)
                self._prior = None

    def add_items(self, item_ids: Iterable[str]) -> None:
        """Know items, so that they can be recommended before anyone has taken them."""
        with self._lock:
            for item_id in item_ids:
                self._live.add_item(item_id)

    def top(self, k: int, exclude: Collection[str], candidates: Collection[str] | None = None) -> list[ScoredItem]:
        """At most `k` items, best first, none of `exclude` and, where given, all of `candidates`."""
        with self._lock:
            popularity = self._prior or self._live
            barred = set(exclude)
            if candidates is not None:
                barred.update(set(popularity.item_ids).difference(candidates))
            return popularity.top(k, barred)
