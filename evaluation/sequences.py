"""Training rows for sequence models: every past event is a target once an epoch, with up to a window before it.

A user's events of one instant have no order, so each epoch draws another. A long history becomes several rows; each
predicts a stretch of at most `targets` events and reads up to `window` items before its last one. The start token
stands before every row, and predicts only items that really were a user's first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogue.replay import Timeline

Ints = NDArray[np.int64]
POOL = 32
"""Batches among which rows are sorted by length, so that little is padding."""


@dataclass(frozen=True)
class Batch:
    """Rows as a rectangle, padded on the right.

    Attributes:
        items: `[B, T]` int64: item indices, `start_token` first, `pad_token` behind.
        lengths: `[B]` int64, tokens of each row without padding.
        states: `[E]` int64, positions in the flattened `[B * T]` whose state predicts an item.
        targets: `[E]` int64, that item. rows: `[E]` int64, its row.
        earlier_rows, earlier_items: `[H]` int64, each row's items of its user from before those it reads.
    """

    items: Tensor
    lengths: Tensor
    states: Tensor
    targets: Tensor
    rows: Tensor
    earlier_rows: Tensor
    earlier_items: Tensor


@dataclass(frozen=True)
class _Rows:
    """Where each row stands in the flat, user-sorted events: its user from `begin`, context from `context`, targets
    `[first, end)`."""

    begin: Ints
    context: Ints
    first: Ints
    end: Ints


class Sequences:
    """The events of a timeline by user. Item `num_items` is the start token, `num_items + 1` padding."""

    def __init__(self, past: Timeline, window: int, targets: int | None = None, *, from_block_start: bool = False):
        """
        Args:
            window: most items a row reads. targets: most events a row predicts; None for `window`.
            from_block_start: predict all of a block's items from the state before the block, as they are asked for,
                instead of one after the other. Targets whose block began outside the row are left out.
        """
        self._user, self._item, self._block = past.user, past.item.astype(np.int64), past.block
        self._window, self._targets, self._from_block_start = window, targets or window, from_block_start
        counts = np.bincount(self._user)
        self._counts = counts[counts > 0].astype(np.int64)
        self._user_start = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self.start_token, self.pad_token = len(past.dataset.items), len(past.dataset.items) + 1

    def __len__(self) -> int:
        """The number of events."""
        return len(self._item)

    def batches(self, batch_rows: int, generator: np.random.Generator, device: torch.device) -> Iterator[Batch]:
        """One epoch, in an order that is a function of the generator."""
        order = np.lexsort((generator.random(len(self)), self._block, self._user))
        flat, block_start = self._item[order], _run_starts(self._block[order])
        rows = self._rows(generator)
        lengths = rows.end - rows.context
        for numbers in _shuffled_by_length(lengths, batch_rows, generator):
            yield self._batch(flat, block_start, rows, numbers, device)

    def _rows(self, generator: np.random.Generator) -> _Rows:
        """Histories longer than a stretch are cut at a random offset, so that a target's depth varies."""
        size, counts = self._targets, self._counts
        first_cut = np.where(counts > size, generator.integers(1, size + 1, len(counts)), counts)
        stretches = 1 + -(-(counts - first_cut) // size)
        owner = np.repeat(np.arange(len(counts)), stretches)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(stretches) - stretches, stretches)
        begin, stop = self._user_start[owner], self._user_start[owner] + counts[owner]
        first = np.where(number == 0, begin, begin + first_cut[owner] + (number - 1) * size)
        end = np.minimum(np.where(number == 0, begin + first_cut[owner], first + size), stop)
        return _Rows(begin=begin, context=np.maximum(begin, end - 1 - self._window), first=first, end=end)

    def _batch(self, flat: Ints, block_start: Ints, rows: _Rows, numbers: Ints, device: torch.device) -> Batch:
        context, first, end = rows.context[numbers], rows.first[numbers], rows.end[numbers]
        lengths = end - context  # the start token stands for the last item, which is a target only
        column = np.arange(int(lengths.max()))
        inside = column[None, :] < lengths[:, None]
        items = flat[np.minimum(np.maximum(context[:, None] + column - 1, 0), len(flat) - 1)]
        items[:, 0] = self.start_token
        items[~inside] = self.pad_token
        sizes = end - first
        row = np.repeat(np.arange(len(numbers)), sizes)
        event = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + first[row]
        before = block_start[event] if self._from_block_start else event
        keep = before >= context[row]
        row, event, before = row[keep], event[keep], before[keep]
        earlier = context - rows.begin[numbers]
        of = np.repeat(np.arange(len(numbers)), earlier)
        had = flat[np.arange(len(of)) - np.repeat(np.cumsum(earlier) - earlier - rows.begin[numbers], earlier)]
        arrays = (items, lengths, row * len(column) + before - context[row], flat[event], row, of, had)
        return Batch(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


def _run_starts(values: Ints) -> Ints:
    """For each entry the position where its run of equal values begins."""
    new = np.concatenate([[True], values[1:] != values[:-1]])
    return np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))


def _shuffled_by_length(lengths: Ints, batch_rows: int, generator: np.random.Generator) -> list[Ints]:
    """Row numbers in batches of like lengths, batches in random order."""
    shuffled = generator.permutation(len(lengths))
    batches: list[Ints] = []
    for start in range(0, len(shuffled), POOL * batch_rows):
        pool = shuffled[start : start + POOL * batch_rows]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches.extend(np.split(pool, range(batch_rows, len(pool), batch_rows)))
    return [batches[number] for number in generator.permutation(len(batches))]
