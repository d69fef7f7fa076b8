"""Rows of young items go to where their takers are; of others, and for nothing that all takers share, they stay."""

from __future__ import annotations

import msgspec
import pytest
import torch

from contracts.item import Item
from recommender.cold_start import add_items
from recommender.examples import Interaction, OnlineBatch, UserUpdate, online_batch
from recommender.imprinting import UNKNOWN, Imprinting
from recommender.initialise import preset_recommender
from recommender.loading import Recommender
from recommender.online import OnlineModel
from recommender.prompt import Prompt
from recommender.recipe import OnlineRecipe
from recommender.scoring import score_histories
from recommender.training import batch_states

RECIPE = OnlineRecipe(learning_rate=1e-9, dropout=0.0, replay_windows=0, weight_decay=0.0, imprint=0.7)


def of_events(recommender: Recommender, *counts: int) -> Recommender:
    """The recommender, with so many events of its first items and 1,000 of each other."""
    own = recommender.vocabulary
    events = (*counts, *(1000,) * (own.num_items - len(counts)))
    vocabulary = msgspec.structs.replace(own, item_events=events)
    return Recommender(recommender.model, vocabulary, Prompt(recommender.prompt.template, vocabulary))


def taken(recommender: Recommender, *items: int) -> OnlineBatch:
    """A batch in which users with histories of their own take one item each."""
    users = [
        UserUpdate([Interaction(f"i{10 + number}", 1.0)], [Interaction(f"i{item}", 2.0)])
        for number, item in enumerate(items)
    ]
    return online_batch(recommender, users)


def learn(online: OnlineModel, *items: int) -> None:
    batch = taken(online.recommender, *items)
    online.score(batch)
    online.backward(batch)
    online.step()
    online.clear()
    online.imprint(batch)


def rows(online: OnlineModel) -> torch.Tensor:
    return online.recommender.head.weight.detach()[online.recommender.vocabulary.first_item_token :].clone()


def test_a_young_items_row_moves_and_its_taker_is_offered_it(tiny: Recommender) -> None:
    online = OnlineModel(of_events(tiny, 0), RECIPE)
    before = rows(online)
    learning = online.learning.head.weight.detach().clone()
    history = [["i10"]]
    chance = score_histories(online.recommender, history)[0, 0]
    other = score_histories(online.recommender, [["i12"]])[0, 0]
    learn(online, 0, 5, 6, 7)
    moved = (rows(online) - before).norm(dim=1)
    assert moved[0] == pytest.approx(0.35 * before[:20].norm(dim=1).mean().item(), rel=1e-3), "0.7 / (0 + 2)"
    assert moved[1:].max() < 1e-6
    assert score_histories(online.recommender, history)[0, 0] > chance + 0.2
    assert score_histories(online.recommender, [["i12"]])[0, 0] < other + 0.1, "not everybody is"
    first = online.recommender.vocabulary.first_item_token
    both = online.learning.head.weight.detach()[first] - learning[first]
    assert torch.allclose(both, rows(online)[0] - before[0], atol=1e-6), "what learns moves along"


def test_moves_shrink_with_the_events_and_end(tiny: Recommender) -> None:
    online = OnlineModel(of_events(tiny, 0, 18), RECIPE)
    sizes = []
    for _ in range(3):
        before = rows(online)
        learn(online, 0, 1, 6, 7)
        sizes.append((rows(online) - before).norm(dim=1)[:2])
    assert sizes[0][0] > sizes[1][0] > sizes[2][0] > 0
    assert sizes[0][1] > 0 and sizes[1][1] > 0, "18 and 19 events"
    assert sizes[2][1] < 1e-6, "20 events are enough"


def test_what_all_takers_share_is_no_reason(tiny: Recommender) -> None:
    online = OnlineModel(of_events(tiny, 0, 0), RECIPE)
    before = rows(online)
    users = [UserUpdate([Interaction("i10", 1.0)], [Interaction(f"i{item}", 2.0)]) for item in (0, 1)]
    batch = online_batch(online.recommender, users)
    online.score(batch)
    online.imprint(batch)
    assert (rows(online) - before).abs().max() < 1e-3 * before.abs().max()


def test_items_of_a_model_that_does_not_count_are_not_young_but_those_added_later_are(
    tiny: Recommender, items: list[Item]
) -> None:
    assert not tiny.vocabulary.item_events
    grown = add_items(tiny, [Item(item_id="new", title="new")], {item.item_id: item for item in items})
    imprinting = Imprinting(grown, 1.0, 20)
    assert imprinting.taken[:20].tolist() == [UNKNOWN] * 20
    online = OnlineModel(tiny, RECIPE)
    online.recommender = add_items(tiny, [Item(item_id="new", title="new")], {item.item_id: item for item in items})
    before = rows(online)
    users = [
        UserUpdate([Interaction("i10", 1.0)], [Interaction("new", 2.0)]),
        UserUpdate([Interaction("i11", 1.0)], [Interaction("i3", 2.0)]),
    ]
    batch = online_batch(online.recommender, users)
    online.score(batch)
    online.imprint(batch)
    moved = (rows(online) - before).norm(dim=1)
    assert moved[20] > 0.1 * before[:20].norm(dim=1).mean()
    assert moved[:20].max() < 1e-6


def test_counts_and_mean_are_part_of_the_state(items: list[Item]) -> None:
    def run(interrupted: bool) -> torch.Tensor:
        online = OnlineModel(of_events(preset_recommender("tiny", items), 0, 3), RECIPE)
        for number in range(6):
            if interrupted and number == 3:
                state = {name: tensor.clone() for name, tensor in online.state().items()}
                online = OnlineModel(of_events(preset_recommender("tiny", items), 0, 3), RECIPE)
                online.load_state(state)
            learn(online, number % 2, 5, 6 + number)
        return rows(online)

    assert torch.equal(run(False), run(True))


def test_the_state_of_a_recipe_without_it_is_refused(tiny: Recommender) -> None:
    without = OnlineModel(tiny, msgspec.structs.replace(RECIPE, imprint=0.0))
    assert batch_states(tiny, taken(tiny, 1, 2)).shape == (2, tiny.head.weight.shape[1])
    before = rows(without)
    batch = taken(tiny, 1, 2)
    without.score(batch)
    without.imprint(batch)
    assert torch.equal(rows(without), before)
    with pytest.raises(ValueError, match="imprint"):
        OnlineModel(tiny, RECIPE).load_state(without.state())
