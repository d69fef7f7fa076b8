"""Ranks of torch scores are those of `recommender.ranking`; a list's items are the sorted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evaluation.ranks import tied_ranks, top_mask
from recommender import ranking


@pytest.fixture
def scores() -> torch.Tensor:
    """Rows full of ties, a third of the items out."""
    random = torch.Generator().manual_seed(0)
    values = torch.randint(0, 6, (40, 30), generator=random).float()
    return values.masked_fill(torch.rand(40, 30, generator=random) < 0.3, -torch.inf)


def test_ranks_agree_with_numpy(scores: torch.Tensor) -> None:
    random = np.random.default_rng(0)
    rows, targets = random.integers(0, 40, 3_000), random.integers(0, 30, 3_000)
    own = tied_ranks(scores, rows, targets)
    wanted = ranking.tied_ranks(scores.numpy(), rows, targets, [[]] * 40)
    assert own.above.tolist() == wanted.above.tolist()
    assert own.tied.tolist() == wanted.tied.tolist()
    assert (own.tied == 0).any()


def test_nan_is_refused(scores: torch.Tensor) -> None:
    scores[3, 4] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        tied_ranks(scores, np.array([0]), np.array([0]))


def test_the_first_k_are_those_of_a_stable_sort(scores: torch.Tensor) -> None:
    scores[0] = -torch.inf
    mask = top_mask(scores, 10)
    for row, values in enumerate(scores.numpy()):
        order = np.argsort(-values, kind="stable")[:10]
        assert np.flatnonzero(mask[row]).tolist() == sorted(order[np.isfinite(values[order])].tolist())
    assert mask.sum(dim=1).max() == 10
