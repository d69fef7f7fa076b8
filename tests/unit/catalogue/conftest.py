"""Small data sets for the catalogue's tests, built through the real builder."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import settings

from catalogue.datasets import Dataset
from catalogue.datasets.dataset import Rows, build
from contracts.item import Item

# A busy two-core machine stalls a test for longer than Hypothesis' 200 ms; pytest-timeout catches what hangs.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

Row = tuple[str, str, int]
MakeDataset = Callable[..., Dataset]


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """A function from rows of (user, item, timestamp) to a `Dataset` whose catalogue is the items that occur."""

    def make(rows: Iterable[Row], *, repeats: bool = True, sequence: list[int] | None = None) -> Dataset:
        users, items, timestamps = zip(*rows, strict=True)
        return build(
            "small",
            "click",
            [Item(item_id=item, title=f"Item {item}") for item in set(items)],
            Rows(
                list(users),
                list(items),
                np.array(timestamps, np.int64),
                sequence=None if sequence is None else np.array(sequence, np.int32),
            ),
            repeats=repeats,
        )

    return make


@pytest.fixture(scope="session")
def crowded(make_dataset: MakeDataset) -> Dataset:
    """2,000 events of 20 users and 50 items on 40 timestamps: many blocks, many of them at one timestamp."""
    random = np.random.default_rng(7)
    columns = random.integers([20, 50, 40], size=(2_000, 3)).tolist()
    return make_dataset([(str(user), str(item), timestamp) for user, item, timestamp in columns])
