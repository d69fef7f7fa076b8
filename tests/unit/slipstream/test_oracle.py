"""The oracle's check passes ties and nothing else."""

import numpy as np
import pytest

from slipstream.demo.oracle import same_list, same_scores

ORACLE = np.array([-1.0, -2.0, -2.0005, -3.0, -4.0], dtype=np.float32)


@pytest.mark.parametrize(
    ("served", "scores", "excluded", "verdict"),
    [
        ([0, 1, 2], [-1, -2, -2.0005], [], True),
        ([0, 2, 1], [-1, -2.0005, -2], [], True),
        ([0, 1, 3], [-1, -2, -3], [], False),
        ([1, 0, 2], [-2, -1, -2.0005], [], False),
        ([0, 1, 2], [-1.1, -2, -2.0005], [], False),
        ([0, 1, 2], [-1, -2, -2.0005], [0], False),
        ([1, 2, 3], [-2, -2.0005, -3], [0], True),
        ([0, 1], [-1, -2], [], False),
        ([0, 0, 1], [-1, -1, -2], [], False),
        ([3, 4], [-3, -4], [0, 1, 2], True),
    ],
    ids=["same", "tie swapped", "wrong item", "wrong order", "wrong score", "excluded served", "after exclusion",
         "too short", "repeated", "catalogue exhausted"],
)  # fmt: skip
def test_agreement(served: list[int], scores: list[float], excluded: list[int], verdict: bool) -> None:
    agreed = same_list(served, ORACLE, excluded, k=3) and same_scores(served, scores, ORACLE)
    assert agreed is verdict
