"""How young items and new users fare: metrics by what was known of them when they were asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogue.heuristic import SECONDS_PER_DAY
from catalogue.replay import Timeline
from evaluation.record import Record


@dataclass(frozen=True, eq=False)
class Ages:
    """What was known at each event of a record, before its block.

    Attributes:
        item_events: `[E]` earlier events of its item. item_days: `[E]` days since the item's first event; NaN for none.
        user_events: `[E]` earlier events of its user.
    """

    item_events: NDArray[np.int64]
    item_days: NDArray[np.float64]
    user_events: NDArray[np.int64]


def ages(line: Timeline, record: Record) -> Ages:
    """Ages at the record's events; `line` is the timeline it was made on."""
    start = _block_starts(line)[record.position]
    item, user = line.item[record.position], line.user[record.position]
    born = np.full(len(line.dataset.items), np.iinfo(np.int64).max)
    np.minimum.at(born, line.item, line.timestamp)
    days = (line.timestamp[record.position] - born[item]) / SECONDS_PER_DAY
    item_events = _earlier(line.item, item, start)
    return Ages(item_events, np.where(item_events > 0, days, np.nan), _earlier(line.user, user, start))


def young_items(
    record: Record, known: Ages, *, below_events: int | None = None, below_days: float | None = None
) -> Record:
    """The events whose item was born, and is younger than one of the bounds; an unborn item is nobody's fault."""
    keep = np.zeros(len(record), np.bool_)
    if below_events is not None:
        keep |= known.item_events < below_events
    if below_days is not None:
        keep |= known.item_days < below_days
    return record.where(keep & (known.item_events > 0))


def new_users(record: Record, known: Ages, *, below_events: int) -> Record:
    """The events of users with fewer than so many before."""
    return record.where(known.user_events < below_events)


def _block_starts(line: Timeline) -> NDArray[np.int64]:
    new = np.diff(line.block, prepend=-1) != 0
    return np.maximum.accumulate(np.where(new, np.arange(len(line)), 0))


def _earlier(values: NDArray[np.int32], asked: NDArray[np.int32], start: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each asked value how often it stands in `values[:start]`."""
    order = np.argsort(values, kind="stable")
    places = values[order].astype(np.int64) * len(values) + order
    low = np.searchsorted(places, asked.astype(np.int64) * len(values))
    return np.searchsorted(places, asked.astype(np.int64) * len(values) + start) - low
