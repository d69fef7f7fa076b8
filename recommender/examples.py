"""Next-item examples for the online trainer: each new event, asked from the state before its block.

A user's events of one instant form a block. Nobody knows their true order, and in MovieLens 100K the next event
of three out of four stands in the same block, so an event is asked for (scored, and trained) from the
history before its block: the state that a recommendation served at that instant would have had. One row of a
batch is therefore one block: its prompt is exactly what the engine is given, and all the block's events are targets
of its last state. The first block of a user is asked from the prefix (start token) alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recommender.history import History, Interaction
from recommender.loading import Recommender
from recommender.scoring import prompt_rows


class UserUpdate(NamedTuple):
    """One user's part of a batch.

    Attributes:
        history: all or the last events before `events`, oldest first; a cut history only makes `seen` smaller.
        events: the new events, in order. Items the model does not know are passed over.
    """

    history: Sequence[Interaction]
    events: Sequence[Interaction]


_new = tuple.__new__
"""A named tuple's own constructor takes 0.2 µs more, several times an event."""
_FIRST = [0]


class Block(NamedTuple):
    """Events of one user at one instant.

    Attributes:
        before: item indices seen before the instant, oldest first, 32 bits each.
        targets: item indices of the events.
        user, positions: which user of the list, and which of the user's events these are.
    """

    before: array[int]
    targets: list[int]
    user: int
    positions: list[int]


@dataclass(frozen=True)
class OnlineBatch:
    """A rectangle of prompts, a row a block, and the events that follow them.

    Attributes:
        tokens: `[B, T]` int64, padded on the right.
        last: `[B]` int64, position of each row's last token, whose state predicts.
        event_row, target: `[E]` int64, each event's row and its item's index.
        blocks: the rows, in order; `blocks[row].before` is what a score masks as seen.
        skipped: events passed over because the model does not know their item.
    """

    tokens: Tensor
    last: Tensor
    event_row: Tensor
    target: Tensor
    blocks: list[Block]
    skipped: int

    @property
    def num_events(self) -> int:
        """Events with a target."""
        return len(self.target)


def online_batch(recommender: Recommender, users: Sequence[UserUpdate]) -> OnlineBatch:
    """The batch for some users' new events; deterministic in the order given.

    A block that the batch's edge cuts is still asked from the state before the whole block: events at the end of
    `history` with the first new event's timestamp count as its block-mates.
    """
    index, window = recommender.vocabulary.index, recommender.prompt.window
    blocks: list[Block] = []
    targets: list[int] = []
    for number, user in enumerate(users):
        history, events = user
        if len(events) > 1 or not isinstance(history, History):
            for block in _blocks(index, number, user):
                blocks.append(block)
                targets += block.targets
        elif events and (item := index.get(events[0].item_id)) is not None:
            # What most of a batch's users have: one event, and known indices.
            before = history.known(index)
            if history.newest == events[0].timestamp:
                del before[len(before) - _last_instant(index, history)[1] :]
            blocks.append(_new(Block, (before, [item], number, _FIRST)))
            targets.append(item)
    tokens, last = prompt_rows([block[0][-window:] for block in blocks], recommender)
    rows = np.arange(len(blocks))
    if len(targets) > len(blocks):
        rows = np.repeat(rows, [len(block.targets) for block in blocks])
    return OnlineBatch(
        tokens=tokens,
        last=last,
        event_row=torch.from_numpy(rows).to(tokens.device),
        target=torch.from_numpy(np.array(targets, np.int64)).to(tokens.device),
        blocks=blocks,
        skipped=sum([len(user[1]) for user in users]) - len(targets),
    )


def _blocks(index: dict[str, int], number: int, user: UserUpdate) -> Iterator[Block]:
    """The user's new events, block by block, those with known items only."""
    history, events = user.history, user.events
    if isinstance(history, History):
        known = history.known(index)
    else:
        known = array("i", [index[seen.item_id] for seen in history if seen.item_id in index])
    instant, mates = _last_instant(index, history)
    start = 0
    while start < len(events):
        end, began = start, events[start].timestamp
        while end < len(events) and events[end].timestamp == began:
            end += 1
        items = [index.get(event.item_id) for event in events[start:end]]
        positions = [start + place for place, item in enumerate(items) if item is not None]
        targets = [item for item in items if item is not None]
        # Events at the end of the history that have this instant are of this block, and not before it.
        skipped = mates if began == instant else 0
        if positions:
            yield Block(known[: len(known) - skipped], targets, number, positions)
        known.extend(targets)
        mates = len(targets) + skipped
        instant, start = began, end


def _last_instant(index: dict[str, int], history: Sequence[Interaction]) -> tuple[float | None, int]:
    """The last event's timestamp, and how many known items at the history's end have it."""
    instant, mates = None, 0
    for seen in reversed(history):
        if instant is None:
            instant = seen.timestamp
        elif seen.timestamp != instant:
            break
        mates += seen.item_id in index
    return instant, mates


__all__ = ["Block", "Interaction", "OnlineBatch", "UserUpdate", "online_batch"]
