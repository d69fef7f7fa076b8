"""Training sequences for pre-training: the past, cut into windows anew each epoch.

Inside a block (a user's events of one instant) the order is not known, so each epoch draws another: the model can't
learn an order of the file, and learns that block-mates predict one another either way. Long histories are cut at a
random offset, so that every item comes to stand at every depth of a window.

A window's items are asked for one after the other, or, as a recommender is, all of a block's from the state before
the block. The first learns more from a window, the second is the question that is put later: where people fill
baskets of twenty at a time, an answer that has seen half of the basket is worth little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogue.replay import Timeline
from recommender.examples import OnlineBatch
from recommender.loading import Recommender
from recommender.scoring import hidden_states, item_log_probabilities, pad_right

Items = NDArray[np.int64]
_NOTHING: Items = np.empty(0, np.int64)


class Window(NamedTuple):
    """A run of one user's items.

    Attributes:
        items: item indices, oldest first.
        asked_after: as long as `items`: how many of them come before the question for each; -1 where an item is not
            asked for.
        before: what the user had before the window, as far as it is known.
    """

    items: Items
    asked_after: Items
    before: Items = _NOTHING


def in_order(items: Items, before: Items = _NOTHING) -> Window:
    """Each item is asked for after all before it."""
    return Window(items, np.arange(len(items)), before)


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

    def windows(self, size: int, generator: np.random.Generator, whole_blocks: bool = False) -> list[Window]:
        """All events once, as runs of at most `size` items of one user, shuffled; the order is the generator's.

        Args:
            whole_blocks: ask for each block's items before the block; those of a block that a window's edge has cut
                are then not asked for.
        """
        order = np.lexsort((generator.random(len(self)), self.block, self.user))
        user, item = self.user[order], self.item[order]
        asked = _block_starts(self.block[order]) if whole_blocks else np.arange(len(item))
        windows: list[Window] = []
        for run in np.split(np.arange(len(item)), np.flatnonzero(np.diff(user)) + 1):
            first = int(generator.integers(1, size + 1)) if len(run) > size else len(run)
            parts = np.split(run, range(first, len(run), size))
            windows += [
                Window(item[part], np.maximum(asked[part] - part[0], -1), item[run[0] : part[0]]) for part in parts
            ]
        return [windows[number] for number in generator.permutation(len(windows))]


def _block_starts(block: Items) -> Items:
    """For each entry the position where its run of equal blocks begins."""
    new = np.diff(block, prepend=-1) != 0
    return np.maximum.accumulate(np.where(new, np.arange(len(block)), 0))


@dataclass(frozen=True)
class WindowBatch:
    """Windows as a rectangle.

    Attributes:
        tokens: `[B, T]` int64, padded on the right.
        states: `[E]` int64, positions in the flattened `[B * T]` whose state predicts an item.
        targets: `[E]` int64, that item's index.
        seen: `[E, num_items]` bool, items that are no answer because the user has had them; None where all are.
    """

    tokens: Tensor
    states: Tensor
    targets: Tensor
    seen: Tensor | None = None


def last_windows(recommender: Recommender, batch: OnlineBatch) -> list[Window]:
    """The last window of each of the batch's users, the new events at its end."""
    newest = {block.user: block for block in batch.blocks}
    size = recommender.prompt.window
    whole = [np.array([*block.before, *block.targets], np.int64) for block in newest.values()]
    return [in_order(items[-size:], items[:-size]) for items in whole]


def window_batch(recommender: Recommender, windows: Sequence[Window], mask_seen: bool = False) -> WindowBatch:
    """The batch for some windows: an item asked for after none of them is asked from the prefix (start token) alone.

    Args:
        mask_seen: what a user has had before a question competes in it no more, as when it is served.
    """
    prompt = recommender.prompt
    # The last item of a window is a target only.
    tokens, _ = pad_right([prompt.tokens_of(window.items[:-1].tolist()) for window in windows], recommender)
    depth = np.concatenate([window.asked_after for window in windows])
    row = np.repeat(np.arange(len(windows)), [len(window.items) for window in windows])
    states = row * tokens.shape[1] + prompt.state_position(0) + depth * prompt.stride
    asked = depth >= 0
    device = tokens.device
    targets = np.concatenate([window.items for window in windows])[asked]
    seen = None
    if mask_seen:
        first = torch.from_numpy(_first_seen(windows, recommender.vocabulary.num_items)).to(device)
        asker, before, answer = (torch.from_numpy(part).to(device) for part in (row[asked], depth[asked], targets))
        seen = first[asker] < before[:, None]
        # Taken again: it was an answer.
        seen.scatter_(1, answer[:, None], False)
    return WindowBatch(
        tokens=tokens,
        states=torch.from_numpy(states[asked]).to(device),
        targets=torch.from_numpy(targets).to(device),
        seen=seen,
    )


def _first_seen(windows: Sequence[Window], num_items: int) -> NDArray[np.int32]:
    """`[B, num_items]` where in the window an item first stands: -1 before it, a large number nowhere."""
    place = np.full((len(windows), num_items), np.iinfo(np.int32).max, np.int32)
    for row, window in zip(place, windows, strict=True):
        # The last write counts, so the first place is written last.
        row[window.items[::-1]] = np.arange(len(window.items), dtype=np.int32)[::-1]
        row[window.before] = -1
    return place


def window_loss(recommender: Recommender, batch: WindowBatch) -> Tensor:
    """Mean negative log-probability of all targets under a full softmax over the items, without those of `seen`; one
    forward pass."""
    states = hidden_states(recommender, batch.tokens).flatten(0, 1)[batch.states]
    log_probabilities = item_log_probabilities(recommender, states, batch.seen)
    return -log_probabilities.gather(1, batch.targets[:, None]).mean()
