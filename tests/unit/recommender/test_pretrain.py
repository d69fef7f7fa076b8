"""Pre-training: windows hold every event once, a killed run ends bit for bit the same, and the model learns."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from catalogue.datasets.dataset import Rows, build
from catalogue.replay import Timeline, timeline
from contracts.item import Item
from recommender.dropout import residual_dropout
from recommender.initialise import preset_recommender
from recommender.loading import Recommender, checkpoint_tensors
from recommender.pretrain import CHECKPOINT, Pretrainer, Progress, pretrain
from recommender.recipe import PretrainSettings
from recommender.scoring import score_histories
from recommender.windows import PastEvents, Window, in_order, window_batch, window_loss

SETTINGS = PretrainSettings(epochs=3, batch_rows=4, warmup_steps=5)


@pytest.fixture(scope="module")
def past(items: list[Item]) -> Timeline:
    """Users who walk up the catalogue, two items an instant; user 0 has a history longer than a window."""
    users, taken, times = [], [], []
    for user in range(12):
        for step in range(130 if user == 0 else 3 + 2 * user):
            users.append(f"u{user}")
            taken.append(f"i{(user + step) % 20}")
            times.append(user * 1000 + step // 2)
    return timeline(build("walk", "click", items, Rows(users, taken, np.array(times, np.int64))), seed=0)


def killed_after(steps: int) -> object:
    """An `on_step` that dies like a killed process: nothing after it runs."""

    def on_step(progress: Progress) -> None:
        if progress.step == steps:
            raise KeyboardInterrupt

    return on_step


def test_windows_hold_every_event_once_and_keep_the_order_of_blocks(tiny: Recommender, past: Timeline) -> None:
    events = PastEvents(tiny, past)
    block_of = {}
    for user, item, block in zip(events.user.tolist(), events.item.tolist(), events.block.tolist(), strict=True):
        block_of.setdefault((user, item), []).append(block)
    first, second = (events.windows(50, np.random.default_rng(seed)) for seed in (0, 1))
    for windows in (first, second):
        assert max(len(window.items) for window in windows) <= 50
        assert all(window.asked_after.tolist() == list(range(len(window.items))) for window in windows)
        assert sorted(np.concatenate([window.items for window in windows]).tolist()) == sorted(events.item.tolist())
    again = events.windows(50, np.random.default_rng(0))
    assert all(np.array_equal(one.items, two.items) for one, two in zip(first, again, strict=True))
    # Users 1 to 8 have fewer items than the catalogue, each once: one window, which ascends block by block.
    for name in (f"u{number}" for number in range(1, 9)):
        user = past.dataset.users.index(name)
        own = {item for (owner, item) in block_of if owner == user}
        assert len(own) == int((events.user == user).sum())
        window = next(w.items for w in second if set(w.items.tolist()) == own and len(w.items) == len(own))
        blocks = [block_of[user, item][0] for item in window.tolist()]
        assert blocks == sorted(blocks)


def test_blocks_are_shuffled_anew(tiny: Recommender, past: Timeline) -> None:
    events = PastEvents(tiny, past)
    pairs = set()
    for seed in range(8):
        for window in events.windows(50, np.random.default_rng(seed)):
            pairs.update(itertools.pairwise(window.items.tolist()))
    assert (3, 4) in pairs
    assert (4, 3) in pairs, "block-mates stand in both orders"


def test_the_loss_is_each_items_from_the_items_before_it(tiny: Recommender) -> None:
    windows = [in_order(np.array([3, 5, 7])), in_order(np.array([2]))]
    loss = window_loss(tiny, window_batch(tiny, windows))
    asked = score_histories(tiny, [[], ["i3"], ["i3", "i5"], []])
    expected = -(asked[0, 3] + asked[1, 5] + asked[2, 7] + asked[3, 2]) / 4
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_what_was_taken_before_a_question_competes_no_more_where_it_is_masked(tiny: Recommender) -> None:
    """Before the window, and in it before the question; a target always competes."""
    window = Window(np.array([3, 5, 3, 7]), np.array([0, 1, 2, 2]), before=np.array([8, 7]))
    batch = window_batch(tiny, [window, in_order(np.array([2]))], mask_seen=True)
    assert batch.seen is not None
    shut = [set(row.nonzero().flatten().tolist()) for row in batch.seen]
    assert shut == [{7, 8}, {3, 7, 8}, {5, 7, 8}, {3, 5, 8}, set()]
    asked = score_histories(tiny, [[], ["i3"], ["i3", "i5"], ["i3", "i5"], []])
    expected = torch.log_softmax(asked.masked_fill(batch.seen, -torch.inf), dim=1)
    mean = sum(expected[row, item] for row, item in enumerate([3, 5, 3, 7, 2])) / 5
    assert window_loss(tiny, batch).item() == pytest.approx(-float(mean), abs=1e-5)
    assert window_batch(tiny, [window]).seen is None


def test_windows_know_what_came_before_them(tiny: Recommender, past: Timeline) -> None:
    events = PastEvents(tiny, past)
    windows = events.windows(3, np.random.default_rng(0))
    lengths = {len(window.before) for window in windows}
    assert lengths > {0} and sum(len(window.items) for window in windows if not len(window.before)) > 0
    by_user = {tuple(window.before) + tuple(window.items) for window in windows}
    assert all(tuple(window.before) in by_user for window in windows if len(window.before)), "cut nowhere else"
    longest = max(by_user, key=len)
    assert all(longest[: len(run)] == run for run in by_user if run[:3] == longest[:3] and run[0] == longest[0])


def test_a_whole_block_is_asked_for_before_any_of_it(tiny: Recommender, past: Timeline) -> None:
    """Also where a window's edge cuts it: then it is not asked for at all."""
    events = PastEvents(tiny, past)
    blocks = {key: set() for key in zip(events.user.tolist(), events.block.tolist(), strict=True)}
    for user, item, block in zip(events.user.tolist(), events.item.tolist(), events.block.tolist(), strict=True):
        blocks[user, block].add(item)
    whole = {frozenset(items) for items in blocks.values()}
    for window in events.windows(50, np.random.default_rng(0), whole_blocks=True):
        together = [
            frozenset(window.items[window.asked_after == start].tolist()) for start in set(window.asked_after.tolist())
        ]
        assert set(together) <= whole, "users here have fewer than 50 items"
        assert all(start <= place for place, start in enumerate(window.asked_after.tolist()))
    cut = events.windows(3, np.random.default_rng(0), whole_blocks=True)
    assert sum(int((window.asked_after < 0).sum()) for window in cut) > 0
    batch = window_batch(tiny, [Window(np.array([3, 5, 7]), np.array([-1, 1, 1]))])
    assert batch.targets.tolist() == [5, 7]
    asked = score_histories(tiny, [["i3"]])[0]
    assert window_loss(tiny, batch).item() == pytest.approx(-(asked[5] + asked[7]).item() / 2, abs=1e-5)


def test_a_share_of_epochs_asks_for_whole_blocks(tiny: Recommender, past: Timeline) -> None:
    def asks_whole_blocks(share: float) -> list[bool]:
        trainer = Pretrainer(tiny, past, msgspec.structs.replace(SETTINGS, whole_block_share=share))
        found = []
        for trainer._epoch in range(12):
            windows = trainer._draw()
            found.append(any(w.asked_after.tolist() != list(range(len(w.items))) for w in windows))
        return found

    assert not any(asks_whole_blocks(0.0))
    assert all(asks_whole_blocks(1.0))
    assert len(set(asks_whole_blocks(0.5))) == 2
    with pytest.raises(ValueError, match="0 to 1"):
        PretrainSettings(whole_block_share=2.0)


def test_a_killed_run_resumes_bit_for_bit(items: list[Item], past: Timeline, tmp_path: Path) -> None:
    def start() -> Pretrainer:
        return Pretrainer(preset_recommender("tiny", items, seed=4), past, SETTINGS)

    whole = start()
    pretrain(whole)
    killed = start()
    with pytest.raises(KeyboardInterrupt):
        pretrain(killed, tmp_path, checkpoint_every_seconds=0, on_step=killed_after(7))  # type: ignore[arg-type]
    torch.manual_seed(999)
    resumed = start()
    assert resumed.resume(tmp_path)
    assert resumed.step == 6, "the checkpoint before the step it was killed in"
    pretrain(resumed, tmp_path)
    assert resumed.step == whole.step
    one, two = (checkpoint_tensors(run.recommender.model) for run in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_of_another_run_is_refused(items: list[Item], past: Timeline, tmp_path: Path) -> None:
    Pretrainer(preset_recommender("tiny", items), past, SETTINGS).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    other = Pretrainer(preset_recommender("tiny", items), past, msgspec.structs.replace(SETTINGS, learning_rate=1e-5))
    with pytest.raises(ValueError, match=r"other settings.*--resume"):
        other.resume(tmp_path)
    shorter = Pretrainer(preset_recommender("tiny", items), past[:50], SETTINGS)
    with pytest.raises(ValueError, match="other events"):
        shorter.resume(tmp_path)
    assert not shorter.resume(tmp_path / "nothing")


def test_it_learns_to_walk(items: list[Item], past: Timeline) -> None:
    recommender = preset_recommender("tiny", items)
    before = score_histories(recommender, [["i4", "i5"]])[0, [6, 7]].exp().sum()
    pretrain(Pretrainer(recommender, past, msgspec.structs.replace(SETTINGS, epochs=20)))
    after = score_histories(recommender, [["i4", "i5"]])[0, [6, 7]].exp().sum()
    assert before < 0.2 < 0.35 < after
    assert not recommender.model.training


def test_seconds_choose_the_epochs(items: list[Item], past: Timeline) -> None:
    trainer = Pretrainer(preset_recommender("tiny", items), past, msgspec.structs.replace(SETTINGS, batch_rows=1))
    pretrain(trainer, seconds=1.0)
    assert trainer.done
    assert trainer.epochs != SETTINGS.epochs
    assert trainer.step >= 20


def test_dropout_is_of_training_only(tiny: Recommender) -> None:
    before = score_histories(tiny, [["i1"]])
    with residual_dropout(tiny.model, 0.5):
        assert torch.equal(score_histories(tiny, [["i1"]]), before), "none in eval mode"
        tiny.model.train()
        assert not torch.allclose(score_histories(tiny, [["i1"]]), before, atol=1e-3)
    assert torch.equal(score_histories(tiny, [["i1"]]), before)


def test_a_data_set_without_the_models_items_is_refused(past: Timeline) -> None:
    stranger = preset_recommender("tiny", [Item(item_id="elsewhere")])
    with pytest.raises(ValueError, match="the model was made for"):
        Pretrainer(stranger, past, SETTINGS)
