"""From a request's item ids to the model's indices."""

from __future__ import annotations

import pytest

from contracts.replica import RankRequest
from recommender.prompt import Prompt, PromptTemplate
from recommender.vocabulary import ItemVocabulary
from serving.ranking_plan import RankingPlan, plan_ranking, scored_items

VOCABULARY = ItemVocabulary.build([f"i{n}" for n in range(10)], first_item_token=2, pad_token=0)
PROMPT = Prompt(PromptTemplate(prefix=(1,), window=3), VOCABULARY)


def plan(**fields: object) -> RankingPlan:
    request = RankRequest(request_id="t", history=["i0", "nobody", "i1", "i2", "i3"], **fields)  # type: ignore[arg-type]
    return plan_ranking(request, PROMPT)


def test_unknown_items_are_passed_over_and_the_history_is_cut() -> None:
    found = plan(exclude=["i5", "nobody", "i5", "i1"])
    assert found.tokens == [1, 3, 4, 5]
    assert found.excluded.tolist() == [1, 5]
    assert found.candidates is None


@pytest.mark.parametrize(
    ("exclude", "candidates", "available"),
    [
        ([], None, 10),
        (["i1", "i2"], None, 8),
        ([f"i{n}" for n in range(10)], None, 0),
        (["i1"], ["i1", "i2", "i2", "nobody"], 1),
        (["i3"], ["i1", "i2"], 2),
        ([], [], 0),
    ],
)
def test_no_more_is_asked_of_the_engine_than_there_is(
    exclude: list[str], candidates: list[str] | None, available: int
) -> None:
    assert plan(exclude=exclude, candidates=candidates, num_results=500).num_results == available
    assert plan(exclude=exclude, candidates=candidates, num_results=1).num_results == min(1, available)


def test_an_exclusion_outside_the_candidates_takes_nothing_away() -> None:
    assert plan(exclude=["i3", "i1"], candidates=["i1", "i2"]).excluded.tolist() == [1]


def test_answers_are_ordered_by_score_then_by_item() -> None:
    items = scored_items(VOCABULARY, [7, 2, 9, 4], [-1.0, -0.5, -1.0, -1.0])
    assert [(item.item_id, item.score) for item in items] == [("i2", -0.5), ("i4", -1.0), ("i7", -1.0), ("i9", -1.0)]
