"""The simulated synchronous group: every event once, one step a round, and a round as slow as its slowest."""

from __future__ import annotations

import itertools

import msgspec
import pytest
import torch

from catalogue.datasets import Dataset
from catalogue.replay import Timeline, timeline
from evaluation.backlog import Backlog, Checkpoint
from evaluation.rounds import RoundsRun, SimulatedRounds, mean_gradient
from online_trainer.exchange.messages import Rule
from recommender.examples import online_batch
from recommender.initialise import preset_recommender
from recommender.loading import Recommender
from recommender.online import OnlineModel
from recommender.recipe import ONLINE, OnlineRecipe

RECIPE = msgspec.structs.replace(ONLINE, replay_windows=2)
PLAIN = msgspec.structs.replace(ONLINE, replay_windows=0, dropout=0.0, whole_windows=False)
"""What a batch's gradient is then depends on its events alone."""
DENSE = Rule(compressed=False)
START = 960


@pytest.fixture
def line(walkers: Dataset) -> Timeline:
    return timeline(walkers, seed=0)


@pytest.fixture
def recommender(walkers: Dataset) -> Recommender:
    return preset_recommender("tiny", walkers.items, seed=1)


def trained(
    recommender: Recommender, line: Timeline, run: RoundsRun, recipe: OnlineRecipe = RECIPE
) -> tuple[SimulatedRounds, list[Checkpoint]]:
    rounds = SimulatedRounds(recommender, line, START, run, recipe)
    checkpoints: list[Checkpoint] = []
    rounds.train(100, checkpoints.append)
    return rounds, checkpoints


@pytest.mark.parametrize("rule", [DENSE, Rule()])
def test_every_event_is_trained_once_and_a_run_repeats_itself(
    recommender: Recommender, line: Timeline, rule: Rule
) -> None:
    run = RoundsRun("x", workers=3, rule=rule, batch_events=8)
    rounds, checkpoints = trained(recommender, line, run)
    _, again = trained(recommender, line, run)
    assert sorted(rounds.trained) == list(range(START, len(line)))
    assert [(c.seconds, c.events) for c in checkpoints] == [(c.seconds, c.events) for c in again]
    assert all(torch.equal(one.weights, other.weights) for one, other in zip(checkpoints, again, strict=True))
    assert not torch.equal(checkpoints[0].weights, checkpoints[-1].weights)
    assert (rounds.dense_bytes / rounds.sent_bytes > 100) == rule.compressed


def test_ranks_draw_apart_and_so_do_seeds(recommender: Recommender, line: Timeline) -> None:
    drawn = {
        bytes(rank.online.state()["random.torch"].numpy())
        for seed in (0, 1)
        for rank in SimulatedRounds(recommender, line, START, RoundsRun("x"), RECIPE, seed).ranks
    }
    assert len(drawn) == 4


@pytest.mark.parametrize("rule", [DENSE, Rule()])
def test_ranks_hold_the_same_weights_and_optimizer(recommender: Recommender, line: Timeline, rule: Rule) -> None:
    rounds, _ = trained(recommender, line, RoundsRun("x", rule=rule, batch_events=16))
    one, other = (rank.online.state() for rank in rounds.ranks)
    assert any(name.startswith("optimizer.") for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one.keys() - {"random.torch"})


def test_a_round_takes_as_long_as_its_slowest_worker(recommender: Recommender, line: Timeline) -> None:
    even, _ = trained(recommender, line, RoundsRun("x", batch_events=8, seconds_per_event=0.01))
    slow, _ = trained(recommender, line, RoundsRun("x", batch_events=8, seconds_per_event=0.01, slow={0: 4.0}))
    assert slow.trained == even.trained
    backlog = Backlog(line, START, 0)
    waiting = [sum(backlog.waiting(p) for p in range(n, 12, 2)) for n in range(2)]
    batches = list(itertools.zip_longest(*([8] * (w // 8) + [w % 8] for w in waiting), fillvalue=0))
    assert even.seconds == pytest.approx(0.01 * sum(max(one, other) for one, other in batches))
    assert slow.seconds == pytest.approx(0.01 * sum(max(4 * one, other) for one, other in batches))
    assert slow.seconds > 1.5 * even.seconds


def test_a_link_costs_what_its_payloads_weigh(recommender: Recommender, line: Timeline) -> None:
    seconds = {
        (compressed, rate): trained(
            recommender,
            line,
            RoundsRun("x", rule=Rule(compressed=compressed), batch_events=1000, link_bytes_per_second=rate),
        )[0].seconds
        for compressed in (True, False)
        for rate in (0.0, 1e6)
    }
    elements = sum(tensor.numel() for tensor in OnlineModel(recommender, PLAIN).weights().values())
    assert seconds[False, 1e6] - seconds[False, 0.0] == pytest.approx(2 * elements / 1e6)
    assert 0 < seconds[True, 1e6] - seconds[True, 0.0] < 0.02 * 2 * elements / 1e6


def test_a_round_is_one_workers_step_on_all_its_events(recommender: Recommender, line: Timeline) -> None:
    """All that waits in one round, of shares that differ: within bf16's rounding."""
    rounds, _ = trained(recommender, line, RoundsRun("x", rule=DENSE, batch_events=1000), PLAIN)
    backlog = Backlog(line, START, 0)
    shares = [backlog.waiting(p) for p in range(12)]
    assert abs(sum(shares[::2]) - sum(shares[1::2])) > 20, "weights of 1 would do, too"
    alone = OnlineModel(recommender, PLAIN)
    updates, _ = backlog.updates(backlog.take(range(12), 1000))
    alone.backward(online_batch(recommender, updates))
    parameters = reversed(list(alone.learning.model.parameters()))
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    for rank in rounds.ranks:
        assert float((rank.gradient - gradient).norm() / gradient.norm()) < 2**-7


def test_compression_loses_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(10_000, generator=generator) for _ in range(3)]
    residuals = [torch.zeros(10_000) for _ in range(3)]
    total = torch.zeros(10_000)
    for _ in range(5):
        mean, sent = mean_gradient(gradients, residuals, Rule())
        total += mean
    assert sent < 10_000 * 4 / 100
    assert float(total.norm()) > 0
    torch.testing.assert_close(total + sum(residuals) / 3, 5 * sum(gradients) / 3, rtol=0, atol=1e-4)
