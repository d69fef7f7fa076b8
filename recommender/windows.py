"""Training sequences for pre-training: the past, cut into windows anew each epoch.

Inside a block (a user's events of one instant) the order is not known, so each epoch draws another: the model can't
learn an order of the file, and learns that block-mates predict one another either way. Long histories are cut at a
random offset, so that every item comes to stand at every depth of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogue.replay import Timeline
from recommender.loading import Recommender
from recommender.scoring import hidden_states, item_log_probabilities, pad_right

Items = NDArray[np.int64]


class PastEvents:
    """The events of a timeline by user, as item indices of one model. Items that the model lacks are left out."""

    def __init__(self, recommender: Recommender, line: Timeline) -> None:
        index = recommender.vocabulary.index
        item = np.array([index.get(item_id, -1) for item_id in line.dataset.item_ids])[line.item]
        known = item >= 0
        self.item: Items = item[known]
        self.user = line.user[known]
        self.block = line.block[known]

    def __len__(self) -> int:
        """Events."""
        return len(self.item)

    def windows(self, size: int, generator: np.random.Generator) -> list[Items]:
        """All events once, as runs of at most `size` items of one user, shuffled; the order is the generator's."""
        order = np.lexsort((generator.random(len(self)), self.block, self.user))
        edges = np.flatnonzero(np.diff(self.user[order])) + 1
        windows: list[Items] = []
        for items in np.split(self.item[order], edges):
            first = int(generator.integers(1, size + 1)) if len(items) > size else len(items)
            windows.extend(np.split(items, range(first, len(items), size)))
        return [windows[number] for number in generator.permutation(len(windows))]


@dataclass(frozen=True)
class WindowBatch:
    """Windows as a rectangle.

    Attributes:
        tokens: `[B, T]` int64, padded on the right.
        states: `[E]` int64, positions in the flattened `[B * T]` whose state predicts an item.
        targets: `[E]` int64, that item's index.
    """

    tokens: Tensor
    states: Tensor
    targets: Tensor


def window_batch(recommender: Recommender, windows: list[Items]) -> WindowBatch:
    """The batch for some windows: every item is a target, the first one from the prefix (start token) alone."""
    prompt = recommender.prompt
    # The last item of a window is a target only.
    tokens, _ = pad_right([prompt.tokens_of(items[:-1].tolist()) for items in windows], recommender)
    depth = np.concatenate([np.arange(len(items)) for items in windows])
    row = np.repeat(np.arange(len(windows)), [len(items) for items in windows])
    states = row * tokens.shape[1] + prompt.state_position(0) + depth * prompt.stride
    device = tokens.device
    return WindowBatch(
        tokens=tokens,
        states=torch.from_numpy(states).to(device),
        targets=torch.from_numpy(np.concatenate(windows)).to(device),
    )


def window_loss(recommender: Recommender, batch: WindowBatch) -> Tensor:
    """Mean negative log-probability of all targets under a full softmax over the items; one forward pass."""
    states = hidden_states(recommender, batch.tokens).flatten(0, 1)[batch.states]
    log_probabilities = item_log_probabilities(recommender, states)
    return -log_probabilities.gather(1, batch.targets[:, None]).mean()
