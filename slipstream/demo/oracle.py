"""Does a served list agree with the plain-PyTorch engine's scores of the same history by the version it names?

Two engines add the same numbers in another order, so equal means equal up to `TOLERANCE`: a served list agrees when
each of its scores is the oracle's score of that item, and each rank holds an item the oracle scores as high as its own
item of that rank, both within the tolerance, and nothing excluded or repeated is on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

TOLERANCE = 1e-3
"""In log-probability. fp32 engines were seen to differ by 1e-5; two ranks closer than this count as a tie."""


def same_list(served: Sequence[int], oracle: Floats, excluded: Collection[int], k: int) -> bool:
    """Whether `served` (item indices, best first) is the oracle's top `k`, ranks within the tolerance exchangeable.

    Args:
        oracle: log-probabilities of the whole catalogue, nothing masked. [num_items]
        excluded: item indices that may not be served.
    """
    masked = oracle.astype(np.float64)
    masked[list(excluded)] = -np.inf
    expected = min(k, int(np.isfinite(masked).sum()))
    if len(served) != expected or len(set(served)) != expected:
        return False
    best = -np.sort(-masked)[:expected]
    return bool(np.all(best - masked[list(served)] <= TOLERANCE))


def same_scores(served: Sequence[int], scores: Sequence[float], oracle: Floats) -> bool:
    """Whether each served score is the oracle's score of that item, within the tolerance."""
    return bool(np.all(np.abs(oracle.astype(np.float64)[list(served)] - np.asarray(scores)) <= TOLERANCE))
