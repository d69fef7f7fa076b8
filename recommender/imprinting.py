"""Rows of young items start from who took them: a few large steps, where the optimizer would take many small ones.

An item of a few events gets a gradient at each of them, and AdamW makes it a step of the usual size: in Amazon Sports,
where half of the events are of items with fewer than 20, such items hardly reached a list (NDCG@10 0.0004), though
whoever counts pairs recommends them after their first event. Imprinted weights (Qi, Brown and Lowe, "Low-Shot Learning
with Imprinted Weights", CVPR 2018) make a new class's row the mean of its examples' states. Here the row *moves* along
them, so that its start (from its title) counts as an example, too, and only along that in which they differ from the
mean state: what all states share makes an item likely for everybody (benchmarks/2026-11-29-imprinting.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recommender.examples import OnlineBatch
from recommender.loading import Recommender

MEAN_KEEPS = 0.95
"""Of the running mean state at a batch."""
UNKNOWN = 1 << 30
"""Events of an item in a model that does not say how many it has seen: nothing is young then but items added later."""


class Imprinting:
    """How many events each item has had, the mean state, and the moves that follow. For one thread.

    Attributes:
        taken: `[slots]` int64, events of each item and reserved slot, those of pre-training among them.
        mean: `[D]` fp32, running mean of the states that were asked; zero before the first.
    """

    def __init__(self, recommender: Recommender, scale: float, below: int) -> None:
        """
        Args:
            scale: of a move, in mean row norms, before it is divided by the events.
            below: an item with so many events moves no more.
        """
        vocabulary, weight = recommender.vocabulary, recommender.head.weight
        self._scale, self._below = scale, below
        taken = torch.zeros(vocabulary.num_items + vocabulary.reserved_slots, dtype=torch.int64)
        known = vocabulary.item_events or (UNKNOWN,) * vocabulary.num_items
        taken[: len(known)] = torch.tensor(known)
        self.taken = taken
        self.mean = torch.zeros(weight.shape[1], device=weight.device)

    @torch.no_grad()
    def move(self, batch: OnlineBatch, states: Tensor, recommenders: Sequence[Recommender]) -> None:
        """Count a batch's events, and move the rows of its young items in all of `recommenders`, by the same.

        Args:
            states: `[B, D]`, what the batch's rows were asked from.
        """
        centre = states.float().mean(dim=0)
        self.mean = MEAN_KEEPS * self.mean + (1 - MEAN_KEEPS) * centre if self.mean.any() else centre
        rows, items, before = self._young(batch)
        if not items:
            return
        apart = states[torch.tensor(rows, device=states.device)].float() - self.mean
        along = torch.nn.functional.normalize(apart, dim=1)
        vocabulary = recommenders[0].vocabulary
        first = vocabulary.first_item_token
        norm = recommenders[0].head.weight[first : first + vocabulary.num_items].float().norm(dim=1).mean()
        share = self._scale / (2.0 + torch.tensor(before, device=states.device))
        moves = share[:, None] * norm * along
        tokens = torch.tensor(items, device=states.device) + first
        for recommender in recommenders:
            weight = recommender.head.weight
            weight.index_add_(0, tokens, moves.to(weight.dtype))

    def _young(self, batch: OnlineBatch) -> tuple[list[int], list[int], list[int]]:
        """Row, item and earlier events of each event of a young item; all events are counted."""
        found: tuple[list[int], list[int], list[int]] = ([], [], [])
        for row, item in zip(batch.event_row.tolist(), batch.target.tolist(), strict=True):
            before = int(self.taken[item])
            self.taken[item] += 1
            if before < self._below:
                for part, value in zip(found, (row, item, before), strict=True):
                    part.append(value)
        return found
