"""The one interface of everything that is evaluated: score a block from the state before it, then learn it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from catalogue.heuristic import Heuristic
from catalogue.protocol import Block
from catalogue.replay import Timeline


class Scorer(ABC):
    """Ranks a data set's items for blocks of a timeline, and may learn from them afterwards.

    Ordering: the evaluator calls `score` for some blocks, then `learn` for the same blocks, in time order. A block's
    history is live: it holds all that its user took before the block, whatever the scorer has learned. Masking (seen
    items, items not yet born) is the evaluator's.

    Attributes:
        batch_events: blocks are handed over until they hold so many events; 1 gives one block at a time.
    """

    batch_events: int = 1

    @abstractmethod
    def score(self, blocks: Sequence[Block]) -> Tensor:
        """`[B, I]` floats over the data set's items in their order, higher is better; -inf for an unknown item."""

    def learn(self, blocks: Sequence[Block]) -> None:
        """Learn the events of `blocks`. A frozen scorer does nothing."""
        del blocks


class HeuristicScorer(Scorer):
    """A heuristic of the catalogue, which has seen every event before the block it is asked about."""

    def __init__(self, heuristic: Heuristic, past: Timeline) -> None:
        """`past` is learned at once, event by event."""
        self._heuristic = heuristic
        columns = (past.user.tolist(), past.item.tolist(), past.timestamp.tolist())
        for user, item, timestamp in zip(*columns, strict=True):
            heuristic.observe(user, item, timestamp)

    def score(self, blocks: Sequence[Block]) -> Tensor:
        """`[B, I]` float64."""
        rows = [self._heuristic.score(block.user, block.history, block.timestamp) for block in blocks]
        return torch.stack([torch.from_numpy(row) for row in rows])

    def learn(self, blocks: Sequence[Block]) -> None:
        """Observe the events one by one."""
        for block in blocks:
            for item in block.items.tolist():
                self._heuristic.observe(block.user, item, block.timestamp)


class Frozen(Scorer):
    """Another scorer that never learns: what it is offline, or the model of the start of the stream."""

    def __init__(self, scorer: Scorer, batch_events: int = 512) -> None:
        self._scorer = scorer
        self.batch_events = batch_events

    def score(self, blocks: Sequence[Block]) -> Tensor:
        """The scorer's own scores."""
        return self._scorer.score(blocks)
