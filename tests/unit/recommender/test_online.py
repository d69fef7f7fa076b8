"""Learning a stream: the past is replayed, the average serves, and chance is the model's own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
import torch

from contracts.item import Item
from recommender.cold_start import add_items
from recommender.examples import Interaction, OnlineBatch, UserUpdate, online_batch
from recommender.initialise import preset_recommender
from recommender.loading import Recommender, checkpoint_tensors
from recommender.online import OnlineModel
from recommender.recipe import ASYNC_BETA1, ONLINE, OnlineRecipe
from recommender.replay import replay_windows
from recommender.scoring import score_histories
from recommender.windows import in_order, last_windows, window_batch, window_loss

PAST = [[Interaction(f"i{(user + step) % 20}", float(step // 2)) for step in range(8)] for user in range(20)]


def draw(count: int) -> list[list[Interaction]]:
    return [PAST[place] for place in torch.randint(len(PAST), (count,)).tolist()]


def batch_of(recommender: Recommender, number: int = 0) -> OnlineBatch:
    """Two users who jump back and forth, which nobody of the past does."""
    users = [
        UserUpdate(
            [Interaction(f"i{(number + user) % 20}", 1.0)],
            [Interaction(f"i{(number + user + 10) % 20}", 2.0), Interaction(f"i{(number + user) % 20}", 3.0)],
        )
        for user in range(2)
    ]
    return online_batch(recommender, users)


def test_workers_that_share_a_stream_share_its_replay_and_lower_their_rates() -> None:
    assert ONLINE.shared_by(1) == ONLINE
    pair = ONLINE.shared_by(2)
    assert pair.betas == (ASYNC_BETA1, ONLINE.betas[1]) and ONLINE.betas[0] > ASYNC_BETA1
    assert pair.replay_windows * 2 == ONLINE.replay_windows
    assert pair.learning_rate**2 * 2 == pytest.approx(ONLINE.learning_rate**2)
    assert pair.average**2 == pytest.approx(ONLINE.average)
    # Half the events in a push, each of which counts twice against the replayed past: two pushes do what a batch does.
    assert pair.event_weight == 2 * ONLINE.event_weight
    assert pair.imprint * 2 == ONLINE.imprint
    rounds = ONLINE.shared_by(2, rounds=True)
    assert rounds == msgspec.structs.replace(ONLINE, replay_windows=16, imprint=0.0), (
        "what is no gradient is not averaged"
    )
    compressed = ONLINE.shared_by(2, rounds=True, compressed=True)
    assert (compressed.second_moment, compressed.betas) == ("tensor", (0.0, ONLINE.betas[1]))
    assert ONLINE.shared_by(2, compressed=True).second_moment == "tensor" != pair.second_moment
    assert msgspec.structs.replace(ONLINE, replay_windows=3, average=0.0).shared_by(2).replay_windows == 2


def steps(online: OnlineModel, count: int, past: object = draw) -> None:
    for number in range(count):
        online.backward(batch_of(online.recommender, number), past)  # type: ignore[arg-type]
        online.step()
        online.clear()


def test_a_replayed_window_is_a_run_of_known_items_with_blocks_shuffled() -> None:
    wide = preset_recommender("tiny", [Item(item_id=f"i{n}") for n in range(200)])
    long = [Interaction("nobody" if n % 10 == 9 else f"i{n}", float(n // 2)) for n in range(200)]
    known = [n for n in range(200) if n % 10 != 9]
    starts, swapped = set(), False
    for window, _, before in replay_windows(wide, [long] * 40):
        start = known.index(window.min())
        assert sorted(window.tolist()) == known[start : start + 50], "a run of 50 known items"
        assert [item // 2 for item in window] == sorted(item // 2 for item in window), "instants in order"
        starts.add(start)
        assert before.tolist() == known[:start]
        swapped |= window.tolist() != known[start : start + 50]
    assert len(starts) > 10
    assert swapped
    assert replay_windows(wide, [[Interaction("nobody", 1.0)], []]) == []
    assert [window.items.tolist() for window in replay_windows(wide, [[Interaction("i3", 1.0)]])] == [[3]]


def test_the_average_of_the_weights_serves(tiny: Recommender) -> None:
    online = OnlineModel(tiny, msgspec.structs.replace(ONLINE, learning_rate=0.1, average=0.75))
    before = {name: tensor.clone() for name, tensor in online.weights().items()}
    steps(online, 1)
    learning = {n.removeprefix("learning."): t for n, t in online.state().items() if n.startswith("learning.")}
    assert learning.keys() == before.keys()
    for name, served in online.weights().items():
        assert torch.allclose(served, 0.75 * before[name] + 0.25 * learning[name], atol=1e-6)
    assert any(not torch.equal(before[name], served) for name, served in online.weights().items())
    assert not tiny.model.training


def test_without_an_average_the_model_itself_learns(tiny: Recommender) -> None:
    online = OnlineModel(tiny, msgspec.structs.replace(ONLINE, average=0.0))
    before = score_histories(tiny, [["i0"]])
    steps(online, 1)
    assert not any(name.startswith("learning.") for name in online.state())
    assert not torch.equal(score_histories(tiny, [["i0"]]), before)


def test_replay_keeps_what_the_past_taught(items: list[Item]) -> None:
    """The stream contradicts the past: learned alone it drives the past out, beside replay it does not."""
    recipe = OnlineRecipe(
        learning_rate=1e-2, dropout=0.0, average=0.0, replay_windows=16, event_weight=0.25, whole_windows=False
    )

    def remembered(online: OnlineModel) -> float:
        """The chance given to the instant behind that of i1 and i2."""
        return score_histories(online.recommender, [["i1", "i2"]])[0, [3, 4]].exp().sum().item()

    online = OnlineModel(preset_recommender("tiny", items), recipe)
    steps(online, 80)
    taught = remembered(online)
    state = {name: tensor.clone() for name, tensor in online.state().items()}
    steps(online, 20)
    kept = remembered(online)
    online.load_state(state)
    steps(online, 20, None)
    assert taught > 0.2, "chance is 0.1"
    assert kept > 0.8 * taught
    assert remembered(online) < 0.5 * taught


def test_an_early_batch_counts_less_beside_replay(tiny: Recommender) -> None:
    """The gradient is that of replayed mean + event_weight x sum over the new events."""
    recipe = OnlineRecipe(dropout=0.0, clip_norm=1e9, average=0.0, event_weight=0.01, whole_windows=False)
    one = online_batch(tiny, [UserUpdate([Interaction("i1", 1.0)], [Interaction("i2", 2.0)])])

    def gradient(own: OnlineRecipe) -> torch.Tensor:
        tiny.model.zero_grad()
        OnlineModel(tiny, own).backward(one, draw)
        return torch.cat([p.grad.flatten() for p in tiny.model.parameters() if p.grad is not None])

    none, single, double = (
        gradient(msgspec.structs.replace(recipe, event_weight=weight)) for weight in (0.0, 0.01, 0.02)
    )
    assert torch.allclose(double - none, 2 * (single - none), atol=1e-5)
    assert (single - none).norm() > 1e-4


def test_the_users_whole_windows_are_learned(tiny: Recommender) -> None:
    """Every item of each user's last window, the new ones at its end, instead of the new ones alone."""
    recipe = OnlineRecipe(dropout=0.0, clip_norm=1e9, average=0.0, replay_windows=0, whole_windows=True)
    past = [Interaction(f"i{n}", float(n)) for n in range(4)]
    new = [Interaction("i9", 10.0), Interaction("i7", 11.0)]
    loss, _ = OnlineModel(tiny, recipe).backward(online_batch(tiny, [UserUpdate(past, new), UserUpdate([], new[:1])]))
    windows = [in_order(np.array([0, 1, 2, 3, 9, 7])), in_order(np.array([9]))]
    with torch.no_grad():
        expected = window_loss(tiny, window_batch(tiny, windows, mask_seen=True))
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    alone, _ = OnlineModel(tiny, msgspec.structs.replace(recipe, whole_windows=False)).backward(
        online_batch(tiny, [UserUpdate(past, new), UserUpdate([], new[:1])])
    )
    assert alone != pytest.approx(loss, abs=1e-3)


def test_what_the_user_has_had_competes_no_more_where_it_is_masked(tiny: Recommender) -> None:
    recipe = OnlineRecipe(dropout=0.0, clip_norm=1e9, average=0.0, replay_windows=0, whole_windows=False)
    had = [Interaction(f"i{n}", float(n)) for n in range(4)]
    again = online_batch(tiny, [UserUpdate(had, [Interaction("i9", 10.0), Interaction("i2", 10.0)])])
    scores = score_histories(tiny, [["i0", "i1", "i2", "i3"]])[0]
    without = scores.clone()
    without[[0, 1, 3]] = -torch.inf
    for masked, expected in ((False, scores), (True, torch.log_softmax(without, 0))):
        loss, _ = OnlineModel(tiny, msgspec.structs.replace(recipe, mask_seen=masked)).backward(again)
        assert loss == pytest.approx(-(expected[9] + expected[2]).item() / 2, abs=1e-5)
    # Of whole windows also what stands before the window, which the prompt does not show.
    long = [Interaction(f"i{n % 12}", float(n)) for n in range(60)]
    batch = online_batch(tiny, [UserUpdate(long, [Interaction("i15", 99.0)])])
    (window,) = last_windows(tiny, batch)
    assert len(window.items) == 50 and window.before.tolist() == list(range(11))
    whole = msgspec.structs.replace(recipe, whole_windows=True)
    losses = [
        OnlineModel(tiny, msgspec.structs.replace(whole, mask_seen=masked)).backward(batch)[0]
        for masked in (False, True)
    ]
    assert losses[1] < losses[0]


def test_chance_is_the_models_own_and_restored(items: list[Item]) -> None:
    def run(interrupted: bool) -> dict[str, torch.Tensor]:
        online = OnlineModel(preset_recommender("tiny", items), ONLINE)
        steps(online, 3)
        if interrupted:
            state = {name: tensor.clone() for name, tensor in online.state().items()}
            online = OnlineModel(preset_recommender("tiny", items, seed=9), ONLINE)
            steps(online, 2)
            torch.manual_seed(77)
            online.load_state(state)
        outside = torch.get_rng_state()
        steps(online, 3)
        assert torch.equal(torch.get_rng_state(), outside), "the caller's random state is left alone"
        return online.state()

    whole, restored = run(False), run(True)
    assert whole.keys() == restored.keys()
    assert all(torch.equal(whole[name], restored[name]) for name in whole)
    other = OnlineModel(preset_recommender("tiny", items), msgspec.structs.replace(ONLINE, seed=1))
    steps(other, 6)
    assert not torch.equal(other.state()["model.model.norm.weight"], whole["model.model.norm.weight"])


def test_a_new_item_learns_too(tiny: Recommender, items: list[Item]) -> None:
    online = OnlineModel(tiny, ONLINE)
    steps(online, 2)
    grown = add_items(online.recommender, [Item(item_id="new", title="Heat")], {item.item_id: item for item in items})
    online.recommender = grown
    token, name = grown.vocabulary.token("new"), "model.embed_tokens.weight"
    assert torch.equal(online.state()[f"learning.{name}"][token], online.weights()[name][token])
    before = online.weights()[name][token].clone()
    batch = online_batch(grown, [UserUpdate([], [Interaction("new", 1.0)])])
    online.backward(batch, draw)
    online.step()
    assert not torch.equal(online.weights()[name][token], before)
    with pytest.raises(ValueError, match="another model"):
        online.recommender = preset_recommender("tiny", items)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_state_of_another_recipe_is_refused(items: list[Item], average: float) -> None:
    state = OnlineModel(preset_recommender("tiny", items), OnlineRecipe(average=average)).state()
    online = OnlineModel(preset_recommender("tiny", items, seed=3), OnlineRecipe(average=0.9 - average))
    before = {name: tensor.clone() for name, tensor in online.weights().items()}
    with pytest.raises(ValueError, match="average"):
        online.load_state(state)
    assert all(torch.equal(before[name], tensor) for name, tensor in online.weights().items())


@pytest.mark.parametrize("wrong", [{"average": 1.0}, {"replay_windows": -1}])
def test_a_recipe_that_can_not_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OnlineRecipe(**wrong)  # type: ignore[arg-type]


def test_no_replay_is_drawn_when_the_recipe_has_none(tiny: Recommender) -> None:
    def never(count: int) -> Sequence[Sequence[Interaction]]:
        raise AssertionError(count)

    steps(OnlineModel(tiny, OnlineRecipe(replay_windows=0)), 1, never)
    assert checkpoint_tensors(tiny.model)
