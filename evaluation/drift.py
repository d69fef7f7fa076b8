"""Tastes that turn over at once: items are permuted within their popularity decile, for half of the users.

The permuted users go on as before under other names of items: popularity hardly changes, what follows what does.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from catalogue.replay import Timeline

DECILES = 10


def drifted(line: Timeline, position: int, seed: int) -> tuple[Timeline, NDArray[np.bool_]]:
    """`line` whose events from `position` on are permuted for half the users (drawn from `seed`).

    Returns:
        the timeline, over a data set in replay order, and `[U]` bool: whose tastes turned.
    """
    random = np.random.default_rng(seed)
    counts = np.bincount(line.item[:position], minlength=len(line.dataset.items))
    mapping = _within_deciles(counts, random)
    turned = random.permutation(len(line.dataset.users)) < len(line.dataset.users) // 2
    item = line.item.copy()
    changed = turned[line.user] & (np.arange(len(line)) >= position)
    item[changed] = mapping[item[changed]]
    dataset = dataclasses.replace(
        line.dataset, user=line.user, item=item, timestamp=line.timestamp, value=line.value, sequence=None
    )
    return Timeline(dataset, np.arange(len(line)), line.block), turned


def _within_deciles(counts: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int32]:
    """A permutation of the items that were taken, each to one of its own decile; the others stay."""
    mapping = np.arange(len(counts), dtype=np.int32)
    taken = np.flatnonzero(counts)
    for decile in np.array_split(taken[np.argsort(counts[taken], kind="stable")], DECILES):
        mapping[decile] = random.permutation(decile)
    return mapping


def events_to_regain(ndcg: NDArray[np.float64], before: float, share: float = 0.9, window: int = 1000) -> int | None:
    """Events after a turn until `share` of the loss is regained: the first moment at which the mean over the last
    `window` events is back at `low + share * (before - low)`, where `low` is the lowest such mean.

    Args:
        ndcg: `[E]` of the events after the turn, in order. before: the level to come back to, of a stream without it.

    Returns:
        None when it is not regained within the stream; 0 when nothing was lost.
    """
    if len(ndcg) < window:
        raise ValueError(f"{len(ndcg)} events are fewer than the window of {window}")
    means = np.convolve(ndcg, np.full(window, 1 / window), mode="valid")
    lowest = int(means.argmin())
    wanted = means[lowest] + share * (before - means[lowest])
    if means[lowest] >= before:
        return 0
    back = np.flatnonzero(means[lowest:] >= wanted)
    return int(back[0]) + lowest + window if len(back) else None
