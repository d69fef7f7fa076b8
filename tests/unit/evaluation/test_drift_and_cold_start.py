"""Permuted tastes, regained losses, and what is young."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from catalogue.datasets import Dataset
from catalogue.replay import timeline
from evaluation.cold_start import ages, new_users, young_items
from evaluation.drift import drifted, events_to_regain
from evaluation.drift_run import run_drift
from evaluation.stages import Stage
from evaluation.stream import prequential


def test_half_the_users_turn_within_deciles(walkers: Dataset) -> None:
    line = timeline(walkers, 0)
    turned_line, turned = drifted(line, 600, seed=1)
    assert turned.sum() == 30
    changed = turned_line.item != line.item
    assert not changed[:600].any()
    assert not changed[~turned[line.user]].any()
    affected = turned[line.user] & (np.arange(1_200) >= 600)
    assert changed[affected].mean() > 0.5
    counts = np.bincount(line.item[:600], minlength=40)
    decile = np.empty(40, int)
    for number, items in enumerate(np.array_split(np.argsort(counts, kind="stable"), 10)):
        decile[items] = number
    assert (decile[turned_line.item] == decile[line.item]).all()
    pairs = set(zip(line.item[affected].tolist(), turned_line.item[affected].tolist(), strict=True))
    assert len(pairs) == len({old for old, _ in pairs}) == len({new for _, new in pairs}), "one permutation for all"
    assert [event.item_id for event in turned_line[600:605]] == [walkers.item_ids[i] for i in turned_line.item[600:605]]


def test_events_until_the_loss_is_regained() -> None:
    after = np.concatenate([np.full(2_000, 0.2), np.full(3_000, 1.0)])
    # 90 % of the way from 0.2 back to 1.0 is 0.92: 900 of the last 1,000 events.
    assert events_to_regain(after, before=1.0) == 2_900
    assert events_to_regain(after, before=0.1) == 0
    assert events_to_regain(np.full(2_000, 0.2), before=1.0) is None
    with pytest.raises(ValueError, match="fewer than the window"):
        events_to_regain(after[:10], before=1.0)


def test_ages_count_what_came_before_the_block(shoppers: Dataset, spy: type) -> None:
    line = timeline(shoppers, 0)
    record = prequential(spy(25), line, 0).open
    assert record is not None
    known = ages(line, record)
    for event in range(0, 1_500, 37):
        start = int(np.flatnonzero(line.block == line.block[event])[0])
        assert known.item_events[event] == (line.item[:start] == line.item[event]).sum()
        assert known.user_events[event] == (line.user[:start] == line.user[event]).sum()
        if known.item_events[event]:
            first = line.timestamp[line.item == line.item[event]].min()
            assert known.item_days[event] == pytest.approx((line.timestamp[event] - first) / 86_400)
    young = young_items(record, known, below_events=3)
    assert set(known.item_events[np.isin(record.row, young.row)].tolist()) == {1, 2}
    assert len(young_items(record, known, below_days=1.0)) == (known.item_events > 0).sum()
    assert (known.user_events[np.isin(record.row, new_users(record, known, below_events=2).row)] < 2).all()


def test_who_learns_regains_what_who_does_not_has_lost(walkers: Dataset) -> None:
    stage = Stage(timeline(walkers, 0), 600)
    settings = {
        "pretrain": {"epochs": 12.0, "batch_rows": 8},
        "online": {"batch_events": 16, "replay_windows": 8, "event_weight": 0.05, "average": 0.5},
    }
    found = {one.scorer: one for one in run_drift(stage, settings, 0.1, 0, torch.device("cpu"), window=60)}
    assert list(found) == ["ours-online", "plain-sgd", "ours-frozen"]
    for one in found.values():
        assert one.low < 0.75 * one.before, "the turn hurts"
    assert found["ours-frozen"].before > 0.4
    assert found["ours-online"].low >= found["ours-frozen"].low * 0.8
