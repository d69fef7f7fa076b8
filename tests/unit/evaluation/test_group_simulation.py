"""The simulated group: every event once, the clock as it is told, and a run that can be repeated."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from catalogue.datasets import Dataset
from catalogue.replay import split, timeline
from evaluation.backlog import Checkpoint
from evaluation.group import GroupRun, SimulatedGroup
from evaluation.group_report import Trained, curves, file_name, kept, plot, ratio, read_curves, recipe_of, runs
from evaluation.rounds import RoundsRun, SimulatedRounds
from online_trainer.exchange.messages import Rule
from recommender.initialise import preset_recommender
from recommender.recipe import ONLINE

RECIPE = msgspec.structs.replace(ONLINE, replay_windows=2)
SMALL = {"batch_events": 8, "seconds_per_event": 0.01}


def trained(walkers: Dataset, run: GroupRun) -> tuple[SimulatedGroup, list[Checkpoint]]:
    line = timeline(walkers, seed=0)
    start = len(split(line, 0.8)[0])
    group = SimulatedGroup(preset_recommender("tiny", walkers.items, seed=1), line, start, run, RECIPE)
    checkpoints: list[Checkpoint] = []
    group.train(100, checkpoints.append)
    assert group.events == len(line) - start
    assert sorted(group.ndcg) == list(range(start, len(line)))
    return group, checkpoints


def test_every_event_is_trained_once_and_a_run_repeats_itself(walkers: Dataset) -> None:
    group, checkpoints = trained(walkers, GroupRun("x", **SMALL))  # type: ignore[arg-type]
    again, _ = trained(walkers, GroupRun("x", **SMALL))  # type: ignore[arg-type]
    assert torch.equal(group.replica.weights, again.replica.weights)
    assert group.ndcg == again.ndcg
    assert not torch.equal(checkpoints[0].weights, checkpoints[-1].weights)
    assert not torch.equal(group.replica.weights, checkpoints[-1].weights), "the average serves"
    assert max(group.staleness) == 1
    assert group.dense_bytes / group.sent_bytes > 100


def test_a_straggler_holds_up_a_round_and_not_an_asynchronous_group(walkers: Dataset) -> None:
    line = timeline(walkers, seed=0)
    recommender = preset_recommender("tiny", walkers.items, seed=1)
    rounds = SimulatedRounds(recommender, line, 960, RoundsRun("s", slow={0: 4.0}, **SMALL), RECIPE)  # type: ignore[arg-type]
    rounds.train(100, lambda _: None)
    free, _ = trained(walkers, GroupRun("a", slow={0: 4.0}, balanced=True, **SMALL))  # type: ignore[arg-type]
    assert free.seconds < 0.8 * rounds.seconds


def test_workers_share_the_recipe_as_the_trainer_shares_it_and_another_one_is_kept_apart() -> None:
    found = {run.name: run for run in runs()}
    assert recipe_of(found["sync"]) == ONLINE.shared_by(2, rounds=True)
    assert recipe_of(found["async of three, straggler, balanced"]) == ONLINE.shared_by(3)
    assert {run.workers: run.batch_events for run in runs()} == {2: 32, 3: 22}
    names = {file_name(run, model, 0, 60, 20) for run in runs() for model in ("a", "b")}
    assert len(names) == 2 * len(found)
    changed = RoundsRun("sync", rule=Rule(compressed=False, slots=32))
    assert file_name(changed, "a", 0, 60, 20) not in names


def outcome(ndcg: float) -> Trained:
    scores = np.linspace(0, 2 * ndcg, 60)
    return Trained(
        np.array([0.0, 10.0]), np.array([0.0, 60.0]), np.stack([scores / 2, scores]), np.arange(60) // 6, 2.0, 0.5
    )


def test_times_and_ratios_are_what_they_say(tmp_path: Path) -> None:
    better, worse = outcome(0.2), outcome(0.1)
    assert better.seconds_to(0.15) == pytest.approx(5.0)
    assert better.seconds_to(0.3) == float("inf")
    value, low = ratio([better, better], [worse, worse])
    assert value == pytest.approx(2.0) and low == pytest.approx(2.0)
    first = kept(tmp_path / "a.npz", lambda: better)
    second = kept(tmp_path / "a.npz", lambda: pytest.fail("it was made already"))
    assert np.array_equal(first.final, second.final) and second.mean_staleness == 0.5


def test_the_json_line_keeps_the_curves_and_a_plot_needs_no_more(tmp_path: Path) -> None:
    found = curves({"sync": [outcome(0.1), outcome(0.3)], "async, straggler": [outcome(0.2)]})
    assert found["sync"].seconds[0] == 0 and found["sync"].seconds[-1] == 10
    assert found["sync"].ndcg[-1] == pytest.approx(0.2) and found["sync"].ndcg[0] == pytest.approx(0.1)
    line = msgspec.json.encode({"command": "eval async", "rows": [], "curves": found})
    path = tmp_path / "said"
    for text in (line, b"| a table |\n" + line + b"\n"):
        path.write_bytes(text)
        assert read_curves(path) == found
    plot(found, tmp_path / "new/plot.png")
    assert (tmp_path / "new/plot.png").read_bytes().startswith(b"\x89PNG")
    path.write_bytes(b'{"rows": []}')
    with pytest.raises(ValueError, match="eval async --json"):
        read_curves(path)
