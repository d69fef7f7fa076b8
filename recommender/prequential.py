"""Test, then train, in time order: what a recommender would have scored on a stream, event by event.

Every block (one user's events of one instant) is ranked over the whole catalogue from the live state before it, what
the user has seen masked, ties at their expected rank. `frozen` keeps the weights; the histories stay live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from catalogue.heuristic import Heuristic
from catalogue.protocol import Block, blocks
from catalogue.replay import Timeline
from recommender.loading import Recommender
from recommender.ranking import Floats, Ints, ndcg, recall, reciprocal_rank, tied_ranks
from recommender.scoring import score_items

ROWS = 64
"""Blocks scored in one forward pass: 64 stay in a core's cache, half the time of 256 for `tiny`."""


@dataclass(frozen=True)
class Outcomes:
    """One scorer's metrics on a stretch of a timeline, an entry an event, in the timeline's order.

    Attributes:
        position: `[E]` where the event stands in the timeline. user: `[E]` index into the data set's users.
        ndcg, recall: `[E]` at 10. reciprocal_rank: `[E]` over the whole catalogue.
    """

    position: Ints
    user: NDArray[np.int32]
    ndcg: Floats
    recall: Floats
    reciprocal_rank: Floats


def frozen(
    recommender: Recommender,
    line: Timeline,
    start: int,
    mask_seen: bool = True,
    on_progress: Callable[[int], None] = lambda events: None,
) -> Outcomes:
    """Score the events of `line` from position `start` on with weights that stay; histories are live.

    Args:
        line: the timeline from its beginning, cut where scoring ends (`timeline[:stop]`).
        start: the first event that counts; a block's first (`len` of `catalogue.replay.split`'s earlier part).
        on_progress: told how many more events are done.
    """
    index = recommender.vocabulary.index
    columns = np.array([index.get(item_id, -1) for item_id in line.dataset.item_ids])
    parts = []
    # By length, so that a batch is hardly padded.
    by_length = sorted(blocks(line, start), key=lambda block: min(len(block.history), recommender.prompt.window))
    for batch in _chunks(by_length, ROWS):
        histories = [known[known >= 0].tolist() for known in (columns[block.history] for block in batch)]
        scores = score_items(recommender, histories).cpu().numpy()
        parts.append(_outcomes(scores, batch, columns, histories if mask_seen else [[]] * len(batch)))
        on_progress(len(parts[-1].position))
    return _in_order(parts)


def heuristic(scorer: Heuristic, line: Timeline, start: int, mask_seen: bool = True) -> Outcomes:
    """Score like `frozen` with a heuristic that has seen all of the stream before each block, and only that."""
    items = np.arange(len(line.dataset.items))
    parts, learnt = [], 0
    user, item, timestamp = line.user.tolist(), line.item.tolist(), line.timestamp.tolist()
    for batch in _chunks(blocks(line, start), ROWS):
        scores = np.empty((len(batch), len(items)))
        for row, block in enumerate(batch):
            for position in range(learnt, block.start):
                scorer.observe(user[position], item[position], timestamp[position])
            learnt = block.start
            scores[row] = scorer.score(block.user, block.history, block.timestamp)
        seen: Sequence[Sequence[int]] = [block.history.tolist() if mask_seen else [] for block in batch]
        parts.append(_outcomes(scores, batch, items, seen))
    return _in_order(parts)


def _outcomes(
    scores: NDArray[np.floating], batch: Sequence[Block], columns: Ints, masked: Sequence[Sequence[int]]
) -> Outcomes:
    """Metrics of each event of `batch`; `columns` maps the data set's items to columns of `scores`."""
    sizes = [len(block.items) for block in batch]
    rows = np.repeat(np.arange(len(batch)), sizes)
    ranks = tied_ranks(scores, rows, columns[np.concatenate([block.items for block in batch])], masked)
    return Outcomes(
        position=np.concatenate([np.arange(block.start, block.start + len(block.items)) for block in batch]),
        user=np.repeat(np.array([block.user for block in batch], np.int32), sizes),
        ndcg=ndcg(ranks),
        recall=recall(ranks),
        reciprocal_rank=reciprocal_rank(ranks),
    )


def _in_order(parts: Sequence[Outcomes]) -> Outcomes:
    order = np.argsort(np.concatenate([part.position for part in parts]))
    names = Outcomes.__dataclass_fields__
    return Outcomes(**{name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names})


def _chunks(values: Iterable[Block], size: int) -> Iterator[list[Block]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
