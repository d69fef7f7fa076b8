"""Our recommender as a scorer: frozen, or learning online by the trainer's own learner.

Items enter as they would through `rec.items.snapshot.v1`: the model is made with those born before the stream; a later
one gets a reserved token, started from items of like title, once its first event has been asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from catalogue.datasets import Dataset
from catalogue.heuristic import SECONDS_PER_DAY
from catalogue.protocol import Block
from catalogue.replay import Timeline
from evaluation.flops import Flops
from evaluation.scorer import Scorer
from online_trainer.learner import Learner
from online_trainer.users import Histories
from recommender.cold_start import add_items
from recommender.examples import Interaction, UserUpdate
from recommender.initialise import COPY_GAIN, preset_recommender, start_popular
from recommender.loading import Recommender
from recommender.pretrain import counted
from recommender.recipe import ONLINE, OnlineRecipe
from recommender.scoring import score_items


class ModelScorer(Scorer):
    """A recommender with live histories and weights that stay, except the rows of items born meanwhile.

    Attributes:
        recommender: what scores now; its vocabulary grows.
    """

    def __init__(self, recommender: Recommender, dataset: Dataset, batch_events: int = 512) -> None:
        self.recommender = recommender
        self.batch_events = batch_events
        self._dataset = dataset
        self._known_items = {item.item_id: item for item in dataset.items}
        self._place = {item_id: number for number, item_id in enumerate(dataset.item_ids)}
        self._refresh()

    def score(self, blocks: Sequence[Block]) -> Tensor:
        """`[B, I]` fp32 log-probabilities, -inf for items that have no token yet."""
        histories = [self._model_items(block.history) for block in blocks]
        known = score_items(self.recommender, histories)
        scores = torch.full((len(blocks), len(self._dataset.items)), -torch.inf, device=known.device)
        scores[:, self._column.to(known.device)] = known
        return scores

    def learn(self, blocks: Sequence[Block]) -> None:
        """Give new items their tokens; learn nothing else."""
        self.meet(blocks)

    def meet(self, blocks: Sequence[Block]) -> None:
        """Give a token to each item of `blocks` that has none."""
        items = np.unique(np.concatenate([block.items for block in blocks]))
        new = [self._dataset.items[item] for item in items[self._index[items] < 0]]
        if new:
            self.recommender = add_items(self.recommender, new, self._known_items)
            self._refresh()

    def _refresh(self) -> None:
        ids = self.recommender.vocabulary.item_ids
        column = np.array([self._place[item_id] for item_id in ids])
        self._column = torch.from_numpy(column)
        self._index = np.full(len(self._dataset.items), -1)
        self._index[column] = np.arange(len(ids))

    def _model_items(self, history: np.ndarray) -> list[int]:
        """The history's end as the model's item indices; one from before the window is never read."""
        known = self._index[history[-4 * self.recommender.prompt.window :]]
        return known[known >= 0].tolist()


@dataclass(frozen=True)
class OnlineSettings:
    """How the stream is learned.

    Attributes:
        batch_events: events a step learns from; they are asked for by the weights before it.
        history_events: how many of a user's last events the trainer keeps, for replay.
        recipe: the online trainer's.
    """

    batch_events: int = 64
    history_events: int = 1000
    recipe: OnlineRecipe = ONLINE


class OnlineScorer(ModelScorer):
    """Test, then train: every batch is scored, then the online trainer's `Learner` takes one step on it.

    Attributes:
        flops: what the steps have cost so far, without their scores: those are serving's.
    """

    def __init__(self, recommender: Recommender, past: Timeline, settings: OnlineSettings) -> None:
        """`recommender` has been trained on `past`, which fills the histories as the trainer's warm-up does."""
        super().__init__(recommender, past.dataset, settings.batch_events)
        self._learner = Learner(recommender, settings.recipe)
        self._whole_windows = settings.recipe.whole_windows
        # What is beyond the window matters only where it is masked.
        self._known_events = settings.history_events if settings.recipe.mask_seen else recommender.prompt.window
        self._histories = Histories(settings.history_events)
        self.flops = Flops(recommender)
        for user, item, timestamp in zip(past.user.tolist(), past.item.tolist(), past.timestamp.tolist(), strict=True):
            self._remember(user, item, timestamp)

    def learn(self, blocks: Sequence[Block]) -> None:
        """Give new items their tokens, then one step; only then are the events history."""
        self.meet(blocks)
        self._learner.recommender = self.recommender
        updates = [self._update(block) for block in blocks]
        self._learner.step(updates, self._draw)
        self._count(updates)
        for block in blocks:
            for item in block.items.tolist():
                self._remember(block.user, item, block.timestamp)

    def _count(self, updates: Sequence[UserUpdate]) -> None:
        """What learning the new events has cost."""
        prompt, num_items = self.recommender.prompt, self.recommender.vocabulary.num_items
        lengths = [len(prompt.tokens(seen.item_id for seen in update.history)) for update in updates]
        if self._whole_windows:
            lengths = [min(len(u.history) + len(u.events), prompt.window) * prompt.stride for u in updates]
        states = sum(lengths) if self._whole_windows else len(updates)
        self.flops.add_step(len(updates), max(lengths), states, num_items)

    def _draw(self, count: int) -> list[Sequence[Interaction]]:
        """The trainer's own draw of histories to replay, and what learning them costs."""
        histories = self._histories.draw(count)
        prompt, num_items = self.recommender.prompt, self.recommender.vocabulary.num_items
        lengths = [min(len(history), prompt.window) for history in histories]
        tokens = len(prompt.template.prefix) + (max(lengths, default=1) - 1) * prompt.stride
        self.flops.add_step(len(lengths), tokens, sum(lengths), num_items)
        return histories

    def _remember(self, user: int, item: int, timestamp: int) -> None:
        data = self._dataset
        self._histories.add(data.users[user], Interaction(data.items[item].item_id, float(timestamp)))

    def _update(self, block: Block) -> UserUpdate:
        # The learner compares times only for equality, to find a block's events; the past is merely "before".
        before = float(block.timestamp) - 1.0
        ids = self._dataset.items
        history = [Interaction(ids[item].item_id, before) for item in block.history[-self._known_events :]]
        events = [Interaction(ids[item].item_id, float(block.timestamp)) for item in block.items]
        return UserUpdate(history, events)


POPULAR_SECONDS = 30 * SECONDS_PER_DAY
"""Of the past's end, for `newborn`'s `popular`."""


def newborn(
    past: Timeline,
    preset: str,
    seed: int,
    window: int | None = None,
    copying: float = COPY_GAIN,
    popular: float = 0.0,
) -> Recommender:
    """Random weights over the items that have an event in `past`; every other item of the catalogue has a slot.

    `window` and `copying` as `preset_recommender` takes them, `popular` the weight that `start_popular` takes; 0 for
    a start without.
    """
    items = past.dataset.items
    born = np.unique(past.item)
    slots = max(64, len(items) - len(born))
    recommender = preset_recommender(preset, [items[item] for item in born], seed, slots, window, copying)
    if popular:
        late = past.item[past.timestamp > past.timestamp[-1] - POPULAR_SECONDS]
        found, counts = np.unique(late, return_counts=True)
        shares = {items[item].item_id: count / len(late) for item, count in zip(found, counts, strict=True)}
        start_popular(recommender, shares, popular)
    return counted(recommender, past)


def own_copy(recommender: Recommender) -> Recommender:
    """The same, with weights of its own."""
    return Recommender(copy.deepcopy(recommender.model), recommender.vocabulary, recommender.prompt)
