"""Small timelines for the protocol's tests, and a scorer that writes down what it was told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from catalogue.datasets import Dataset
from catalogue.datasets.dataset import Rows, build
from catalogue.protocol import Block
from contracts.item import Item
from evaluation.scorer import Scorer

MakeDataset = Callable[..., Dataset]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """A function from rows of (user, item, timestamp) to a `Dataset`."""

    def make(rows: Sequence[tuple[str, str, int]], *, repeats: bool = False) -> Dataset:
        users, items, timestamps = zip(*rows, strict=True)
        catalogue = [Item(item_id=item, title=f"Title {int(item) % 5}") for item in set(items)]
        return build(
            "small", "click", catalogue, Rows(list(users), list(items), np.array(timestamps, np.int64)), repeats=repeats
        )

    return make


@pytest.fixture(scope="session")
def walkers(make_dataset: MakeDataset) -> Dataset:
    """60 users walk up a ring of 40 items, two an instant, and start one after another: 1,200 events."""
    steps = [(user, step) for user in range(60) for step in range(20)]
    return make_dataset([(str(u), str((7 * u + step) % 40), 100 * u + 10 * (step // 2)) for u, step in steps])


@pytest.fixture(scope="session")
def shoppers(make_dataset: MakeDataset) -> Dataset:
    """30 users buy 25 items again and again, in baskets: 1,500 events."""
    random = np.random.default_rng(3)
    rows = [(str(u), str(i), int(t)) for u, i, t in random.integers([30, 25, 200], size=(1_500, 3))]
    return make_dataset(rows, repeats=True)


class Spy(Scorer):
    """Scores by a function of the block, and keeps what it was asked and shown, in order."""

    def __init__(
        self, num_items: int, rule: Callable[[Block], np.ndarray] | None = None, batch_events: int = 1
    ) -> None:
        self.num_items, self.batch_events = num_items, batch_events
        self._rule = rule or (lambda block: np.zeros(num_items))
        self.told: list[tuple[str, Block]] = []

    def score(self, blocks: Sequence[Block]) -> Tensor:
        self.told += [("score", block) for block in blocks]
        return torch.stack([torch.from_numpy(self._rule(block)) for block in blocks])

    def learn(self, blocks: Sequence[Block]) -> None:
        self.told += [("learn", block) for block in blocks]


@pytest.fixture(scope="session")
def spy() -> type[Spy]:
    """The spying scorer's class."""
    return Spy
