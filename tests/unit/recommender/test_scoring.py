"""One prefill ranks the catalogue: batching, padding and windows do not change a score."""

from __future__ import annotations

import pytest
import torch

from recommender.loading import Recommender
from recommender.scoring import score_histories, top_items


def test_scores_are_log_probabilities_over_items_only(tiny: Recommender) -> None:
    scores = score_histories(tiny, [[], ["i1"]])
    assert scores.shape == (2, 20)
    assert scores.exp().sum(dim=1).tolist() == pytest.approx([1.0, 1.0])
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([tiny.prompt.tokens(["i1"])])).logits[0, -1]
    assert torch.allclose(scores[1], torch.log_softmax(logits[2:22], 0), atol=1e-6)


def test_batch_padding_and_unknown_items_change_no_score(tiny: Recommender) -> None:
    histories = [["i1"], ["i2", "i3", "nobody", "i4"], [], [f"i{n % 20}" for n in range(70)]]
    together = score_histories(tiny, histories)
    alone = torch.cat([score_histories(tiny, [history]) for history in histories])
    assert torch.allclose(together, alone, atol=1e-5)
    window = score_histories(tiny, [histories[3][-50:], histories[3][-49:]])
    assert torch.allclose(together[3], window[0], atol=1e-5)
    assert not torch.allclose(together[3], window[1], atol=1e-4), "the window is 50 items"
    assert score_histories(tiny, []).shape == (0, 20)


def test_top_items_excludes_and_breaks_ties_by_item_order() -> None:
    scores = torch.tensor([0.5, 2.0, 2.0, 1.0, 2.0])
    assert top_items(scores, 3) == [(1, 2.0), (2, 2.0), (4, 2.0)]
    assert top_items(scores, 4, exclude={1, 4}) == [(2, 2.0), (3, 1.0), (0, 0.5)]
    assert scores.tolist() == [0.5, 2.0, 2.0, 1.0, 2.0]
