"""Ours as scorers: new items enter after they were asked for, frozen stays, online learns, retraining has no future."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from catalogue.datasets import Dataset
from catalogue.protocol import Block, blocks
from catalogue.replay import split, timeline
from evaluation.methods import Fit
from evaluation.our_method import Ours, Retrained, retrained_trials
from evaluation.ours import ModelScorer, OnlineScorer, OnlineSettings, newborn
from evaluation.retraining import TIMES, RetrainedScorer, Retraining, extended
from evaluation.served import agreement, sample_blocks
from evaluation.stages import tuning_stage
from evaluation.stream import prequential
from recommender.recipe import OnlineRecipe, PretrainSettings
from recommender.scoring import score_histories

CPU = torch.device("cpu")
SHORT = PretrainSettings(epochs=2, batch_rows=16, warmup_steps=5)


@pytest.fixture(scope="module")
def late_items(make_dataset: object) -> Dataset:
    """30 users on 12 items; at the end three new items are taken, one after another, by ten users each."""
    rows = [(str(u), str(i), 100 * u + i) for u in range(30) for i in range(12)]
    rows += [(str(u), str(50 + u // 10), 4_000 + 10 * u) for u in range(30)]
    return make_dataset(rows)  # type: ignore[operator]


def test_scores_are_the_oracles_in_the_data_sets_order(late_items: Dataset) -> None:
    line = timeline(late_items, 0)
    scorer = ModelScorer(newborn(line[:360], "tiny", 0), late_items)
    asked = list(blocks(line, 360))[:5]
    scores = scorer.score(asked)
    ids = late_items.item_ids
    wanted = score_histories(scorer.recommender, [[ids[item] for item in block.history] for block in asked])
    for column, item_id in enumerate(scorer.recommender.vocabulary.item_ids):
        assert torch.equal(scores[:, ids.index(item_id)], wanted[:, column])
    assert torch.isneginf(scores).sum() == 5 * 3, "items born later have no token yet"


def test_a_new_item_gets_its_token_after_it_was_asked_for(late_items: Dataset) -> None:
    line = timeline(late_items, 0)
    scorer = ModelScorer(newborn(line[:360], "tiny", 0), late_items, batch_events=1)
    before = copy.deepcopy(scorer.recommender.model.state_dict())
    record = prequential(scorer, line, 360).masked
    births = record.position % 10 == 0
    assert record.tied[births].tolist() == [0, 0, 0], "missed at its birth"
    assert (record.tied[~births] == 1).all(), "and ranked from then on"
    after = scorer.recommender.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert all("embed" in name or "lm_head" in name for name in changed), "frozen but for the new items' rows"
    old = newborn(line[:360], "tiny", 0).vocabulary
    rows = slice(old.item_tokens.start, old.item_tokens.stop)
    assert torch.equal(before["model.embed_tokens.weight"][rows], after["model.embed_tokens.weight"][rows])


def test_online_learns_by_the_trainers_learner_and_frozen_does_not(walkers: Dataset) -> None:
    stage = tuning_stage(walkers, 0)
    settings = {"pretrain": {"epochs": 1.0, "batch_rows": 16}, "online": {"batch_events": 8, "learning_rate": 0.01}}
    scorers = Ours().fit(Fit(stage.past, 0, CPU), settings)
    outcomes = {name: prequential(scorer, stage.line, stage.start).masked for name, scorer in scorers.items()}
    assert list(scorers) == ["ours-frozen", "ours-online"]
    first = stage.line.block == stage.line.block[stage.start]
    same = first[outcomes["ours-frozen"].position]
    assert outcomes["ours-frozen"].above[same].tolist() == outcomes["ours-online"].above[same].tolist()
    half = len(same) // 2
    assert outcomes["ours-online"].ndcg[half:].mean() > 1.05 * outcomes["ours-frozen"].ndcg[half:].mean()


def test_online_learns_new_items_too(late_items: Dataset) -> None:
    line = timeline(late_items, 0)
    recipe = OnlineRecipe(replay_windows=0, average=0.0, learning_rate=0.01, betas=(0.9, 0.999), weight_decay=0.0)
    settings = OnlineSettings(1, recipe=recipe)
    scorer = OnlineScorer(newborn(line[:360], "tiny", 0), line[:360], settings)
    record = prequential(scorer, line, 360).masked
    births = record.position % 10 == 0
    assert (record.tied[births] == 0).all()
    assert (record.tied[~births] > 0).all()
    # All have had the same twelve items, and the three new ones are all there is to recommend.
    assert record.above[-4:].tolist() == [0] * 4, "the newest item, taken by everyone now, has come first"


@pytest.mark.parametrize("replay_windows", [0, 8])
def test_online_flops_are_those_that_torch_counts(walkers: Dataset, replay_windows: int) -> None:
    line = timeline(walkers, 0)
    past = split(line, 0.75)[0]
    recipe = OnlineRecipe(replay_windows=replay_windows, dropout=0.0)
    scorer = OnlineScorer(newborn(past, "tiny", 0), past, OnlineSettings(8, recipe=recipe))
    asked = list(blocks(line, len(past)))[:6]
    counter = FlopCounterMode(display=False)
    with counter:
        scorer.learn(asked)
    before = scorer.flops.total
    with FlopCounterMode(display=False) as scoring:
        scorer.score(asked)
    assert before == pytest.approx(counter.get_total_flops() - scoring.get_total_flops(), rel=0.1)


def test_histories_are_filled_from_the_past_and_grow_behind_each_step(walkers: Dataset) -> None:
    line = timeline(walkers, 0)
    past = split(line, 0.75)[0]
    scorer = OnlineScorer(newborn(past, "tiny", 0), past, OnlineSettings(8))
    asked = list(blocks(line, len(past)))[:3]
    user = asked[0].user
    before = [seen.item_id for seen in scorer._histories.of(walkers.users[user])]
    assert before == [walkers.item_ids[item] for item in asked[0].history]
    scorer.learn(asked)
    after = [seen.item_id for seen in scorer._histories.of(walkers.users[user])]
    assert after[: len(before)] == before
    assert len(after) == len(before) + sum(len(block.items) for block in asked if block.user == user)


def test_the_stream_a_retraining_knows_is_the_one_it_was_shown(shoppers: Dataset) -> None:
    line = timeline(shoppers, 0)
    start = len(split(line, 0.8)[0])
    shown = list(blocks(line, start))[:100]
    past = extended(line[:start], shown)
    end = shown[-1].start + len(shown[-1].items)
    for name in ("user", "item", "timestamp"):
        assert getattr(past, name).tolist() == getattr(line[:end], name).tolist()
    same = [np.diff(block) == 0 for block in (past.block, line.block[:end])]
    assert np.array_equal(*same), "events are block-mates exactly where they were"
    assert len(past.dataset) == end


@pytest.mark.parametrize("start", ["scratch", "warm"])
def test_it_is_retrained_ten_times(walkers: Dataset, start: str) -> None:
    stage = tuning_stage(walkers, 0)
    settings = {"pretrain": {"epochs": 1.0, "batch_rows": 128}, "start": start}
    fit = Fit(stage.past, 0, CPU, len(stage.line) - stage.start)
    scorer = Retrained().fit(fit, settings)["ours-retrained"]
    assert isinstance(scorer, RetrainedScorer)
    scorer.batch_events = 4
    prequential(scorer, stage.line, stage.start)
    assert scorer.retrainings == TIMES
    assert scorer.flops.total > 0
    assert [trial["start"] for trial in retrained_trials({}, ("scratch", "warm"))] == ["scratch", "warm"]


def test_a_warm_start_goes_on_from_the_weights_it_has(walkers: Dataset) -> None:
    line = timeline(walkers, 0)
    past, rest = line[:960], list(blocks(line, 960))
    still = PretrainSettings(epochs=1, batch_rows=64, learning_rate=1e-12, weight_decay=0.0)
    first = newborn(past, "tiny", 3)
    scorers = {
        start: RetrainedScorer(first, past, 20, Retraining(start, still))  # type: ignore[arg-type]
        for start in ("scratch", "warm")
    }
    before = ModelScorer(first, walkers).score(rest[-2:])
    for scorer in scorers.values():
        scorer.learn(rest[:4])
    assert torch.allclose(scorers["warm"].score(rest[-2:]), before, atol=1e-3)
    assert not torch.allclose(scorers["scratch"].score(rest[-2:]), before, atol=1e-1)


async def test_a_thousand_lists_are_those_that_the_engine_serves(walkers: Dataset, tmp_path: Path) -> None:
    line = timeline(walkers, 0)
    scorer = ModelScorer(newborn(line, "tiny", 0), walkers)
    asked = list(blocks(line, 0))
    many = sample_blocks([*asked, *asked], 1_000)
    assert len(many) == 1_000
    same = await agreement(scorer, many, tmp_path / "model", walkers)
    assert (same.compared, same.agreed) == (1_000, 1_000)
    worse = ModelScorer(newborn(line, "tiny", 0), walkers)
    found = await agreement(worse, asked[:1], tmp_path / "other", walkers)
    assert found.agreed == 1


async def test_a_scorer_that_is_not_what_is_served_disagrees(walkers: Dataset, tmp_path: Path) -> None:
    line = timeline(walkers, 0)

    class Elsewhere(ModelScorer):
        def score(self, blocks: list[Block]) -> torch.Tensor:  # type: ignore[override]
            return super().score(blocks).roll(1, dims=1)

    scorer = Elsewhere(newborn(line, "tiny", 0), walkers)
    asked = list(blocks(line, 0))[:20]
    assert (await agreement(scorer, asked, tmp_path, walkers)).agreed < 5
