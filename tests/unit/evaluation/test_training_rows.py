"""Every past event is a target once an epoch, from what its user had before it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from catalogue.datasets import Dataset
from catalogue.replay import Timeline, timeline
from evaluation.sequences import Batch, Sequences

CPU = torch.device("cpu")


def epoch(sequences: Sequences, seed: int = 0, batch_rows: int = 8) -> list[Batch]:
    return list(sequences.batches(batch_rows, np.random.default_rng(seed), CPU))


def contexts(batches: list[Batch]) -> list[tuple[list[int], int]]:
    """(tokens up to the predicting state, target) of every target."""
    found = []
    for batch in batches:
        width = batch.items.shape[1]
        for state, target, row in zip(batch.states.tolist(), batch.targets.tolist(), batch.rows.tolist(), strict=True):
            assert state // width == row
            assert state % width < batch.lengths[row]
            found.append((batch.items[row, : state % width + 1].tolist(), target))
    return found


@pytest.mark.parametrize(("window", "targets"), [(50, None), (6, None), (6, 3), (3, 1)])
def test_each_event_is_a_target_once_with_up_to_a_window_before_it(
    shoppers: Dataset, window: int, targets: int | None
) -> None:
    line = timeline(shoppers, 0)
    found = contexts(epoch(Sequences(line, window, targets)))
    assert sorted(target for _, target in found) == sorted(line.item.tolist())
    assert all(tokens[0] == 25 for tokens, _ in found), "the start token stands first"
    assert max(len(tokens) for tokens, _ in found) == window + 1 or window == 50
    firsts = [target for tokens, target in found if len(tokens) == 1]
    assert len(firsts) == 30, "the start token alone predicts each user's first item and nothing else"


def test_the_context_is_the_users_own_past(walkers: Dataset) -> None:
    line = timeline(walkers, 0)
    for tokens, target in contexts(epoch(Sequences(line, 50))):
        if len(tokens) > 3:
            path = [*tokens[1:], target]
            steps = [(two - one + 20) % 40 - 20 for one, two in itertools.pairwise(path)]
            assert all(-1 <= step <= 3 for step in steps), "block by block up the ring"


def test_an_epoch_is_a_function_of_the_generator_and_block_mates_change_places(walkers: Dataset) -> None:
    line = timeline(walkers, 0)
    sequences = Sequences(line, 50)
    one, again, other = (contexts(epoch(sequences, seed)) for seed in (0, 0, 1))
    assert one == again
    assert sorted(map(str, one)) != sorted(map(str, other))


def test_from_the_blocks_start_mates_share_one_state(walkers: Dataset) -> None:
    line = timeline(walkers, 0)
    found = contexts(epoch(Sequences(line, 50, from_block_start=True)))
    assert len(found) == len(line)
    by_context: dict[str, int] = {}
    for tokens, _ in found:
        by_context[str(tokens)] = by_context.get(str(tokens), 0) + 1
    assert by_context["[40]"] == 120, "both items of every user's first block, from the start token"
    assert all(len(tokens) % 2 == 1 for tokens, _ in found)


def test_a_row_that_begins_within_a_block_leaves_that_blocks_targets_out(shoppers: Dataset) -> None:
    line: Timeline = timeline(shoppers, 0)
    cut = contexts(epoch(Sequences(line, 4, from_block_start=True)))
    assert 0.5 * len(line) < len(cut) <= len(line)
