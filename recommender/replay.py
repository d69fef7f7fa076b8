"""Seeing the past again: windows of past users' histories, drawn by torch's random state.

That state is part of a trainer's checkpoint, so a restored run draws the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from recommender.examples import Interaction
from recommender.loading import Recommender
from recommender.windows import Window, in_order

Past = Callable[[int], Sequence[Sequence[Interaction]]]
"""Draws that many users' histories by torch's random state, a user as often as they have events; [] of none."""


def replay_windows(recommender: Recommender, histories: Sequence[Sequence[Interaction]]) -> list[Window]:
    """A window of each history, at a random place, the order inside each instant drawn anew; unknown items left out."""
    return [window for history in histories if len((window := _window(recommender, history)).items)]


def _window(recommender: Recommender, history: Sequence[Interaction]) -> Window:
    index, size = recommender.vocabulary.index, recommender.prompt.window
    known = [seen for seen in history if seen.item_id in index]
    first = int(torch.randint(max(1, len(known) - size + 1), ())) if known else 0
    window = known[first : first + size]
    times = np.array([seen.timestamp for seen in window])
    order = np.lexsort((torch.rand(len(window)).numpy(), np.cumsum(np.diff(times, prepend=times[:1]) != 0)))
    before = np.array([index[seen.item_id] for seen in known[:first]], np.int64)
    return in_order(np.array([index[seen.item_id] for seen in window], np.int64)[order], before)
