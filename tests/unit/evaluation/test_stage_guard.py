"""Choices can't see the last 20 %, and it is opened once for a configuration."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from catalogue.datasets import Dataset
from catalogue.replay import timeline
from evaluation.choices import Choices, Protocol, try_settings, untried
from evaluation.goals import SASREC, methods
from evaluation.heuristics import MODEL_TRIALS, POPULARITY_DECAYED, TRIALS, heuristic_methods
from evaluation.methods import Heuristics, SasrecMethod
from evaluation.our_method import MODEL, Ours, online_settings
from evaluation.our_trials import our_trials
from evaluation.ours import newborn
from evaluation.runs import Run, execute
from evaluation.session import Session, _settings, _shared
from evaluation.stages import AlreadyOpened, OpenedLog, configuration_hash, tuning_stage
from evaluation.tasks import Task, spread
from recommender.recipe import PRETRAIN, PretrainSettings

CPU = torch.device("cpu")
PROTOCOLS: tuple[Protocol, ...] = ("prequential", "time-split", "leave-one-out")
TUNED = (*SASREC, Ours.name)


def test_choices_are_the_same_whatever_happens_in_the_last_fifth(walkers: Dataset, tmp_path: Path) -> None:
    late = np.sort(walkers.timestamp)[int(0.8 * len(walkers))]
    poisoned = dataclasses.replace(walkers, item=np.where(walkers.timestamp < late, walkers.item, 0).astype(np.int32))
    method = Heuristics(POPULARITY_DECAYED)
    chosen = []
    for number, data in enumerate((walkers, poisoned)):
        choices = Choices(tmp_path / f"{number}.json")
        for settings in untried(method, choices):
            choices.add(method.name, try_settings(method, settings, data, "prequential", CPU))
        assert untried(method, choices) == []
        chosen.append(choices.trials(method.name))
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == TRIALS
    assert choices.best(method.name) == max(chosen[0], key=lambda trial: trial["ndcg"])["settings"]
    stage = tuning_stage(walkers, 0)
    assert stage.line.timestamp[-1] < late
    assert len(stage.line) == pytest.approx(0.8 * len(walkers), abs=20)
    assert stage.start == pytest.approx(0.7 * len(walkers), abs=20)


def test_everyone_who_is_tuned_has_as_many_trials(walkers: Dataset, shoppers: Dataset) -> None:
    counts = [len(h.grid) for data in (walkers, shoppers) for h in heuristic_methods(data)]
    assert set(counts) == {1, TRIALS}, "a heuristic has nothing to choose, or as much as all others"
    assert TRIALS >= MODEL_TRIALS
    names = ("ml-100k", "ml-1m-partial", "latest-small", "online-retail", "amazon-sports")
    named = [dataclasses.replace(shoppers if name == "online-retail" else walkers, name=name) for name in names]
    for data, protocol in itertools.product(named, PROTOCOLS):
        tuned = [m for m in methods(data, protocol) if isinstance(m, SasrecMethod | Ours) and m.name in TUNED]
        assert len(tuned) == 5
        for method in tuned:
            assert len({configuration_hash(trial) for trial in method.trials}) == len(method.trials) == MODEL_TRIALS


def test_every_setting_that_is_tried_makes_a_model(walkers: Dataset, shoppers: Dataset) -> None:
    sports = dataclasses.replace(walkers, name="amazon-sports")
    for data, protocol in itertools.product((walkers, sports, shoppers), PROTOCOLS):
        for settings in our_trials(data, protocol):
            assert newborn(timeline(data, 0), seed=0, **{**MODEL, **settings.get("model", {})}).vocabulary.num_items
            msgspec.convert({**msgspec.to_builtins(PRETRAIN), **settings.get("pretrain", {})}, PretrainSettings)
            online_settings(settings.get("online", {}))


def test_tasks_for_gpus_are_spread_over_them() -> None:
    task = Task("ml-100k", None, "prequential", "ours", {}, 0, Path("/nowhere"), "cuda")
    assert [t.device for t in spread([task] * 3, 2)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert spread([task], 0) == [task]
    on_cpu = dataclasses.replace(task, device="cpu")
    assert spread([on_cpu], 2) == [on_cpu]


def test_the_end_is_opened_once_for_a_configuration_and_seed(walkers: Dataset, tmp_path: Path) -> None:
    log = OpenedLog(tmp_path / "opened.jsonl")
    with log.final_stage(walkers, 0, {"a": 1}) as stage:
        assert len(stage.line) == len(walkers)
        assert stage.line[stage.start].timestamp > stage.past[-1].timestamp
        assert [entry["event"] for entry in log.entries()] == ["opened"], "on disk before it is handed out"
    with pytest.raises(AlreadyOpened, match="its result stands"), log.final_stage(walkers, 0, {"a": 1}):
        pass
    for seed, configuration in ((1, {"a": 1}), (0, {"a": 2})):
        with log.final_stage(walkers, seed, configuration):
            pass
    assert len(log.entries()) == 6


def test_who_ended_without_a_result_may_open_again_and_it_shows(walkers: Dataset, tmp_path: Path) -> None:
    log = OpenedLog(tmp_path / "opened.jsonl")
    with pytest.raises(RuntimeError), log.final_stage(walkers, 0, {}):
        raise RuntimeError
    with log.final_stage(walkers, 0, {}):
        pass
    assert [entry["event"] for entry in log.entries()] == ["opened", "opened", "closed"]


def test_a_run_that_is_done_is_read_not_made_again(walkers: Dataset, tmp_path: Path) -> None:
    run = Run(walkers, "prequential", Heuristics(POPULARITY_DECAYED), {"half_life_days": 1}, 0, tmp_path)
    first = execute(run, CPU, lambda text: None, lambda events: None)
    entries = OpenedLog(tmp_path / "opened.jsonl").entries()
    again = execute(run, CPU, lambda text: None, lambda events: None)
    assert OpenedLog(tmp_path / "opened.jsonl").entries() == entries
    assert np.array_equal(first[0].outcome.masked.above, again[0].outcome.masked.above)
    assert first[0].outcome.masked.user.tolist() == timeline(walkers, 0).user[first[0].outcome.masked.position].tolist()
    for path in run.place.glob("*.json"):
        path.unlink()
    with pytest.raises(AlreadyOpened):
        execute(run, CPU, lambda text: None, lambda events: None)


def _add_many(path: Path, method: str) -> None:
    for number in range(40):
        Choices(path).add(method, {"settings": {"number": number}, "ndcg": 0.1})


def test_commands_side_by_side_keep_each_others_trials(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_add_many, args=(path, method)) for method in ("ours", "sasrec-full")]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert {method: len(Choices(path).trials(method)) for method in ("ours", "sasrec-full")} == {
        "ours": 40,
        "sasrec-full": 40,
    }


def test_a_time_split_is_chosen_by_the_streams_trials_of_the_frozen_model(walkers: Dataset, tmp_path: Path) -> None:
    session = Session(walkers, "time-split", 1, "cpu", tmp_path)
    ours = next(method for method in methods(walkers, "time-split") if isinstance(method, Ours))
    assert not _shared(session, ours), "there are none"
    for number, (frozen, online) in enumerate([(0.3, 0.1), (0.2, 0.9)]):
        scorers = {"ours-frozen": frozen, "ours-online": online}
        trial = {"settings": {}, "chosen": {"number": number}, "ndcg": online, "scorers": scorers}
        session.stream_choices.add("ours", trial)
    assert _shared(session, ours) and _settings(session, ours) == {"number": 0}
    assert not _shared(Session(walkers, "leave-one-out", 1, "cpu", tmp_path), ours)
    session.choices.add("ours", {"settings": {}, "chosen": {"number": 7}, "ndcg": 0.0, "scorers": {}})
    assert not _shared(session, ours) and _settings(session, ours) == {"number": 7}, "its own go first"
