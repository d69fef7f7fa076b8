"""The learner: scores by the weights before the step, every bit restored, nothing applied that is not finite."""

from __future__ import annotations

import math

import pytest
import torch

from online_trainer.learner import Learner, Verdict
from recommender.examples import Interaction, UserUpdate
from recommender.loading import Recommender
from recommender.ranking import ndcg, tied_ranks
from recommender.recipe import ONLINE, OnlineRecipe
from recommender.scoring import score_histories
from tests.unit.online_trainer.conftest import small_model


def updates(shift: int = 0) -> list[UserUpdate]:
    past = [Interaction(f"i{n}", float(n)) for n in range(4)]
    return [
        UserUpdate(past, [Interaction(f"i{9 + shift}", 10.0), Interaction("i8", 11.0)]),
        UserUpdate([], [Interaction("unknown", 10.0), Interaction(f"i{5 + shift}", 12.0)]),
    ]


def past(count: int) -> list[list[Interaction]]:
    """Histories to learn again, drawn as the trainer draws them: by torch's random state."""
    return [
        [Interaction(f"i{(first + n) % 30}", float(n // 2)) for n in range(7)]
        for first in torch.randint(30, (count,)).tolist()
    ]


@pytest.fixture
def model() -> Recommender:
    return small_model()


def test_scores_are_those_of_the_weights_before_the_step(model: Recommender) -> None:
    learner = Learner(model, OnlineRecipe(learning_rate=0.1))
    histories = [["i0", "i1", "i2", "i3"], ["i0", "i1", "i2", "i3", "i9"], []]
    before = score_histories(model, histories).numpy()
    report = learner.step(updates())
    expected = ndcg(
        tied_ranks(
            before, torch.arange(3).numpy(), torch.tensor([9, 8, 5]).numpy(), [[0, 1, 2, 3], [0, 1, 2, 3, 9], []]
        )
    )
    assert report.verdict is Verdict.APPLIED
    assert report.ndcg.keys() == {(0, 0), (0, 1), (1, 1)}
    assert [report.ndcg[place] for place in ((0, 0), (0, 1), (1, 1))] == pytest.approx(expected.tolist())
    assert not torch.allclose(torch.from_numpy(before), score_histories(model, histories))


@pytest.mark.parametrize(
    ("recipe", "moment"),
    [(ONLINE, "exp_avg_sq"), (ONLINE.shared_by(2, rounds=True, compressed=True), "mean_square")],
)
def test_a_restored_learner_goes_on_bit_for_bit(recipe: OnlineRecipe, moment: str) -> None:
    def steps(learner: Learner, shifts: list[int]) -> dict[str, torch.Tensor]:
        for shift in shifts:
            learner.step(updates(shift), past)
        return {name: tensor.clone() for name, tensor in learner.state().items()}

    torch.manual_seed(4)
    whole = steps(Learner(small_model(), recipe), [0, 1, 2, 3])
    torch.manual_seed(4)
    half = steps(Learner(small_model(), recipe), [0, 1])
    again = Learner(small_model(), recipe)
    steps(again, [7, 8, 9])
    again.load_state(half)
    rest = steps(again, [2, 3])
    assert rest.keys() == whole.keys()
    assert all(torch.equal(rest[name], whole[name]) for name in whole)
    assert any(moment in name for name in whole)


def test_another_optimizer_s_state_is_refused_and_changes_nothing() -> None:
    one, other = (Learner(small_model(), r) for r in (ONLINE, ONLINE.shared_by(2, rounds=True, compressed=True)))
    one.step(updates(), past)
    before = {name: tensor.clone() for name, tensor in other.state().items()}
    with pytest.raises(ValueError, match="second_moment"):
        other.load_state(one.state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state().items())


def test_a_batch_without_a_known_item_changes_nothing(model: Recommender) -> None:
    learner = Learner(model, ONLINE)
    before = {name: tensor.clone() for name, tensor in learner.weights().items()}
    report = learner.step([UserUpdate([], [Interaction("unknown", 1.0)])])
    assert report.verdict is Verdict.NOTHING
    assert math.isnan(report.loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.weights().items())


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_not_applied(model: Recommender, poison: float) -> None:
    learner = Learner(model, ONLINE)
    learner.step(updates())
    with torch.no_grad():
        model.model.base_model.norm.weight[3] = poison
    before = {name: tensor.clone() for name, tensor in learner.state().items()}
    assert learner.step(updates(1)).verdict is Verdict.NON_FINITE
    assert not learner.is_finite()
    after = learner.state()
    assert all(torch.equal(before[name].nan_to_num(7.0), after[name].nan_to_num(7.0)) for name in before)


def test_a_gradient_that_is_not_finite_is_not_applied(model: Recommender) -> None:
    # Without the average the weights that learn are the model's own, and the hook reaches them.
    learner = Learner(model, OnlineRecipe(average=0.0))
    learner.step(updates())
    before = {name: tensor.clone() for name, tensor in learner.state().items()}
    handle = model.model.base_model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))
    assert learner.step(updates(1)).verdict is Verdict.NON_FINITE
    handle.remove()
    assert all(torch.equal(before[name], tensor) for name, tensor in learner.state().items() if "random" not in name)
    assert learner.is_finite()
    assert learner.step(updates(1)).verdict is Verdict.APPLIED


def test_the_state_of_another_model_is_refused(model: Recommender) -> None:
    learner = Learner(model, ONLINE)
    state = {name: tensor for name, tensor in learner.state().items() if "norm" not in name}
    with pytest.raises(ValueError, match="not those of this model"):
        learner.load_state(state)
