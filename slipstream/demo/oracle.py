"""Does a served list agree with the plain-PyTorch engine's scores of the same history by the version it names?

Two engines add the same numbers in another order, so equal means equal up to `TOLERANCE`: a served list agrees when
each of its scores is the oracle's score of that item, and each rank holds an item the oracle scores as high as its own
item of that rank, both within the tolerance, and nothing excluded or repeated is on it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-3
"""In log-probability. fp32 engines were seen to differ by 1e-5; two ranks closer than this count as a tie."""


def agrees(
    served: Sequence[int], scores: Sequence[float], oracle: npt.NDArray[np.float32], excluded: Collection[int], k: int
) -> bool:
    """Whether `served` (item indices, best first, with `scores`) is the oracle's top `k`.

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
    found = masked[list(served)]
    return bool(np.all(best - found <= TOLERANCE) and np.all(np.abs(found - np.asarray(scores)) <= TOLERANCE))
