"""The protocol: blocks in time order, each asked from the state before it, then learned.

- A block is one user's events of one instant; its items are all asked for before any of them is learned.
- What the user has had is masked. Where people buy again (`Dataset.repeats`) a second table has nothing masked.
- An item that had no event before the block is not born: no candidate, and a miss when it is the target.
- Equal scores count at the mean over their orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogue.protocol import Block, UserHistories, births, blocks, is_first, leave_one_out
from catalogue.replay import Timeline
from evaluation.ranks import tied_ranks, top_mask
from evaluation.record import K, Record
from evaluation.scorer import Scorer

ROWS = 256
"""Blocks ranked at once."""

OnProgress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Outcome:
    """The tables of one run.

    Attributes:
        masked: seen items masked; where people buy again, first purchases only (`is_first`).
        open: nothing masked, all events; None where nobody takes an item twice.
    """

    masked: Record
    open: Record | None

    @property
    def main(self) -> Record:
        """The table that choices are made by: all events."""
        return self.masked if self.open is None else self.open


def prequential(scorer: Scorer, line: Timeline, start: int, on_progress: OnProgress = lambda events: None) -> Outcome:
    """Ask for the events of `line` from position `start` on: test, then train.

    Args:
        line: the timeline from its beginning, cut where the evaluation ends.
        start: a block's first event; all before it must be known to `scorer`.
        on_progress: told how many more events are done.
    """
    return _run(scorer, line, blocks(line, start), births(line), on_progress)


def time_split(scorer: Scorer, line: Timeline, start: int, on_progress: OnProgress = lambda events: None) -> Outcome:
    """Like `prequential`, but nobody learns after `start`: only the users' histories go on.

    The catalogue ends at `start` too: an item born later is a miss for everyone.
    """
    born = births(line)
    known = np.where(born < start, born, len(line))
    return _run(_Unlearning(scorer), line, blocks(line, start), known, on_progress)


def leave_last_out(
    scorer: Scorer, line: Timeline, *, validation: bool, on_progress: OnProgress = lambda events: None
) -> Outcome:
    """Ask for each user's last event (or last but one) from everything before it; the whole catalogue competes.

    Raises ValueError for a data set with repeats.
    """
    held = leave_one_out(line)
    histories = UserHistories(line)
    asked = (
        Block(
            user=int(line.user[position]),
            timestamp=int(line.timestamp[position]),
            start=int(position),
            items=line.item[position : position + 1],
            history=histories.before(position),
        )
        for position in sorted((held.validation if validation else held.test).tolist())
    )
    everything = np.full(len(line.dataset.items), -1, np.int64)
    return _run(_Unlearning(scorer), line, asked, everything, on_progress)


def leave_out_training(line: Timeline) -> Timeline:
    """The events that leave-one-out trains on: all but each user's last two."""
    held = leave_one_out(line)
    keep = np.ones(len(line), np.bool_)
    keep[np.concatenate([held.test, held.validation])] = False
    return Timeline(line.dataset, line.order[keep], line.block[keep])


class _Unlearning(Scorer):
    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.batch_events = max(scorer.batch_events, ROWS)

    def score(self, blocks: Sequence[Block]) -> Tensor:
        return self._scorer.score(blocks)


def _run(
    scorer: Scorer, line: Timeline, asked: Iterable[Block], born: NDArray[np.int64], on_progress: OnProgress
) -> Outcome:
    masked = _Table(line, born)
    open_ = _Table(line, born) if line.dataset.repeats else None
    waiting: list[tuple[list[Block], Tensor]] = []
    for batch in _batches(asked, scorer.batch_events):
        waiting.append((batch, scorer.score(batch)))
        scorer.learn(batch)
        if sum(len(part) for part, _ in waiting) >= ROWS:
            _rank(waiting, masked, open_)
        on_progress(sum(len(block.items) for block in batch))
    _rank(waiting, masked, open_)
    record = masked.record()
    # An item that its user has had is masked, so it can't be asked for in this table.
    record = record.where(is_first(line)[record.position])
    return Outcome(record, None if open_ is None else open_.record())


def _rank(waiting: list[tuple[list[Block], Tensor]], masked: _Table, open_: _Table | None) -> None:
    if not waiting:
        return
    batch = list(chain.from_iterable(part for part, _ in waiting))
    scores = torch.cat([scores for _, scores in waiting])
    waiting.clear()
    if open_ is not None:
        open_.add(batch, scores, mask_seen=False)
    masked.add(batch, scores, mask_seen=True)


class _Table:
    """Collects the ranks of one way of masking."""

    def __init__(self, line: Timeline, born: NDArray[np.int64]) -> None:
        self._line = line
        self._born = torch.from_numpy(born)
        self._position: list[NDArray[np.int64]] = []
        self._above: list[NDArray[np.int64]] = []
        self._tied: list[NDArray[np.int64]] = []
        self._covered = torch.zeros(len(born), dtype=torch.bool)

    def add(self, batch: Sequence[Block], scores: Tensor, *, mask_seen: bool) -> None:
        self._born, self._covered = self._born.to(scores.device), self._covered.to(scores.device)
        starts = torch.tensor([block.start for block in batch], device=scores.device)
        shut = self._born[None, :] >= starts[:, None]
        if mask_seen:
            lengths = [len(block.history) for block in batch]
            row = np.repeat(np.arange(len(batch)), lengths)
            seen = np.concatenate([block.history for block in batch]).astype(np.int64)
            shut[torch.from_numpy(row).to(shut.device), torch.from_numpy(seen).to(shut.device)] = True
        scores = scores.masked_fill(shut, -torch.inf)
        sizes = [len(block.items) for block in batch]
        rows = np.repeat(np.arange(len(batch)), sizes)
        targets = np.concatenate([block.items for block in batch]).astype(np.int64)
        ranks = tied_ranks(scores, rows, targets)
        self._position.append(np.concatenate([np.arange(b.start, b.start + len(b.items)) for b in batch]))
        self._above.append(ranks.above)
        self._tied.append(ranks.tied)
        self._covered |= top_mask(scores, K).any(dim=0)

    def record(self) -> Record:
        position = np.concatenate(self._position or [np.empty(0, np.int64)])
        return Record(
            row=self._line.order[position],
            user=self._line.user[position],
            position=position,
            above=np.concatenate(self._above or [position]),
            tied=np.concatenate(self._tied or [position]),
            covered=self._covered.cpu().numpy(),
        )


def _batches(asked: Iterable[Block], events: int) -> Iterator[list[Block]]:
    """Whole blocks, until they hold `events` events."""
    batch: list[Block] = []
    held = 0
    for block in asked:
        batch.append(block)
        held += len(block.items)
        if held >= events:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
