"""What a data set is like, in the numbers that decide how to evaluate on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catalogue.datasets import Dataset
from catalogue.protocol import is_first
from catalogue.replay import timeline


@dataclass(frozen=True)
class Statistics:
    """Counts of a data set.

    Attributes:
        users, items, events: how many; `items` counts the whole catalogue.
        items_taken: items with at least one event.
        first_timestamp, last_timestamp: unix seconds.
        same_instant_share: share of events whose user has another event at the same timestamp.
        repeat_share: share of events whose user had taken the item before.
        median_user_events: events of the median user.
    """

    name: str
    event_type: str
    users: int
    items: int
    items_taken: int
    events: int
    first_timestamp: int
    last_timestamp: int
    same_instant_share: float
    repeat_share: float
    median_user_events: float


def statistics(dataset: Dataset) -> Statistics:
    """Count `dataset`."""
    line = timeline(dataset)
    sizes = np.bincount(line.block)
    return Statistics(
        name=dataset.name,
        event_type=dataset.event_type,
        users=len(dataset.users),
        items=len(dataset.items),
        items_taken=len(np.unique(dataset.item)),
        events=len(dataset),
        first_timestamp=int(dataset.timestamp[0]),
        last_timestamp=int(dataset.timestamp[-1]),
        same_instant_share=float(sizes[sizes > 1].sum() / len(dataset)),
        repeat_share=float(1 - is_first(line).mean()),
        median_user_events=float(np.median(np.bincount(dataset.user))),
    )
