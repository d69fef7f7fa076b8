"""Arrivals come at the rate asked for, the same under one seed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from loadtest.arrivals import arrival_times


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(arrival_times(4, 1.1, "constant")) == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(list(arrival_times(100, 200, seed=1)))
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # what tells them from any other spacing


def test_a_seed_names_the_arrivals() -> None:
    first = list(arrival_times(50, 2, seed=3))
    assert first == list(arrival_times(50, 2, seed=3)) != list(arrival_times(50, 2, seed=4))
    assert all(a < b for a, b in pairwise(first))


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        next(arrival_times(0, 1))
