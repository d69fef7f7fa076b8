"""Items born after the model: from the items topic into reserved slots, repeated bit for bit after a kill.

items topic → rows → journal (fsync) → weights, vocabulary, admission        between two plans
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Protocol

import structlog
import torch

from contracts.item import Item
from online_trainer.admission import Admission
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.journal import NewItems
from online_trainer.learner import Learner
from online_trainer.metrics import TrainerMetrics
from online_trainer.progress import Progress
from online_trainer.tensors import to_raw
from recommender.cold_start import Starts, place_items, start_rows, with_items
from recommender.loading import Recommender, item_tables

MOST_ITEMS = 32
"""Added at once: training waits for the search of their likes, which takes some 30 ms an item among 60,000."""
_log = structlog.get_logger(__name__)


class Feed(Protocol):
    """The items topic as it is now: an `ItemFeed`, or one that a thread follows."""

    @property
    def items(self) -> Mapping[str, Item]:
        """By id."""

    def look(self) -> bool:
        """Take in what is new; whether anything was. May raise LogUnavailable."""

    def close(self) -> None:
        """Stop reading."""


class Newcomers:
    """Those items of the feed that a model lacks. For one thread.

    Args:
        tokenizer: a base model's; see `recommender.cold_start.add_items`.
    """

    def __init__(self, feed: Feed, metrics: TrainerMetrics, tokenizer: Any = None) -> None:
        self._feed = feed
        self._metrics = metrics
        self._tokenizer = tokenizer
        self._waiting: list[Item] | None = None
        self._said_full = False

    def of(self, recommender: Recommender, after: int) -> NewItems | None:
        """The next items for its reserved slots, if there are any; changes no weight.

        None also while the rows would not be finite: the weights are not, and the trainer is about to find out.

        Raises:
            LogUnavailable: call again.
        """
        if self._feed.look() or self._waiting is None:
            known = recommender.vocabulary.index
            self._waiting = [item for item in self._feed.items.values() if item.item_id not in known]
        slots = recommender.vocabulary.reserved_slots
        self._show(recommender, len(self._waiting) - slots)
        new = list(islice(self._waiting, min(slots, MOST_ITEMS)))
        if not new:
            return None
        starts = start_rows(recommender, new, self._feed.items, self._tokenizer)
        if not all(bool(torch.isfinite(rows).all()) for rows in starts.values()):
            return None
        del self._waiting[: len(new)]
        reach(FaultPoint.ITEMS_CHOSEN)
        rows = {name: bytes(raw.data) for name, raw in to_raw(starts).items()}
        return NewItems(after=after, item_ids=tuple(item.item_id for item in new), starts=rows)

    def forget(self) -> None:
        """The model is another than the last one that was asked about."""
        self._waiting = None

    def close(self) -> None:
        """Stop reading."""
        self._feed.close()

    def _show(self, recommender: Recommender, without: int) -> None:
        self._metrics.items.set(recommender.vocabulary.num_items)
        self._metrics.items_without_slot.set(max(0, without))
        if without > 0 and not self._said_full:
            self._said_full = True
            _log.error(
                "no_reserved_slot",
                items=without,
                effect="their events are counted as untrained, and no model recommends them",
                mend="initialise a model with more slots: slipstream init --reserved-slots",
            )


class Growth:
    """Gives a learner's model new items, and takes them back when it goes back to a checkpoint.

    Args:
        append: makes an entry of the journal durable.
    """

    def __init__(
        self,
        learner: Learner,
        progress: Progress,
        admission: Admission,
        newcomers: Newcomers,
        append: Callable[[NewItems], None],
    ) -> None:
        self._learner = learner
        self._progress = progress
        self._admission = admission
        self._newcomers = newcomers
        self._append = append
        self._folder = learner.recommender
        self.restore()

    def look(self) -> bool:
        """Add what is new in the items topic; whether there was anything. Raises LogUnavailable: call again."""
        new = self._newcomers.of(self._learner.recommender, self._progress.plans_applied)
        if new is None:
            return False
        self._append(new)
        reach(FaultPoint.ITEMS_JOURNALLED)
        self.add(new)
        return True

    def add(self, new: NewItems) -> None:
        """Add a journal's entry, unless the weights have it: a checkpoint may be newer than what is repeated."""
        if self._learner.recommender.vocabulary.index.keys() >= set(new.item_ids):
            return
        recommender = self._learner.recommender
        grown = place_items(recommender, new.item_ids, starts_of(new, recommender))
        self._learner.recommender = grown
        self._admission.know(grown.vocabulary.index)
        self._progress.added_items += new.item_ids
        _log.info("items_added", items=len(new.item_ids), known=grown.vocabulary.num_items)
        reach(FaultPoint.ITEMS_ADDED)

    def restore(self) -> None:
        """Know exactly the items of the progress, whose weights have just been restored."""
        recommender = with_items(self._folder, self._progress.added_items)
        self._learner.know(recommender)
        self._admission.know(recommender.vocabulary.index)
        self._newcomers.forget()

    def close(self) -> None:
        """Stop reading."""
        self._newcomers.close()


def starts_of(new: NewItems, recommender: Recommender) -> Starts:
    """The rows of a journal's entry, as tensors. Raises ValueError for bytes that are not whole rows."""
    tables = item_tables(recommender)
    return {
        name: torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(-1, *tables[name].shape[1:])
        for name, data in new.starts.items()
        if name in tables
    }
