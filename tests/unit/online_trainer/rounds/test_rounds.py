"""Two real ranks over gloo: they do what one worker would with all their events, and commit as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from online_trainer.batch import train_batch
from online_trainer.learner import Learner
from tests.unit.online_trainer.conftest import small_model
from tests.unit.online_trainer.rounds.rank import FIRST, RECIPES, SECOND, arrivals, past

ROOT = Path(__file__).parents[4]
RANK = Path(__file__).with_name("rank.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
Tensors = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(
    scope="module",
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="not two GPUs")),
    ],
)
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Where both ranks have left what they found; on two GPUs by NCCL."""
    folder = tmp_path_factory.mktemp("rounds")
    processes = [
        subprocess.Popen(
            [sys.executable, str(RANK), str(rank), "2", str(folder / "store"), str(folder), request.param],
            env=ENVIRONMENT, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=100)[1].decode()[-3000:] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], said
    return folder


@pytest.fixture(scope="module")
def tensors(folder: Path) -> list[Tensors]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def said(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_bytes()) for rank in range(2)]


@pytest.mark.parametrize("kind", ["dense", "compressed"])
@pytest.mark.parametrize("name", RECIPES)
def test_every_rank_holds_the_same_weights_and_a_restored_one_goes_on_alike(
    tensors: list[Tensors], name: str, kind: str
) -> None:
    one, other = (found[f"{name}, {kind}"] for found in tensors)
    for tensor in one:
        assert torch.equal(one[tensor], other[tensor])
    assert bool(one["restored"]) and bool(other["restored"])


@pytest.mark.parametrize("name", RECIPES)
def test_two_ranks_do_what_one_worker_does_with_all_events(tensors: list[Tensors], name: str) -> None:
    """Unequal batches, then a round in which rank 1 has none."""
    learner = Learner(small_model(), RECIPES[name])
    first = {tensor: values.clone() for tensor, values in learner.weights().items()}
    train_batch(1, [*arrivals(FIRST, 0), *arrivals(SECOND, 1)], learner, past(0, 1), passed=False)
    train_batch(2, arrivals(range(9, 12), 0), learner, past(0), passed=False)
    found = tensors[0][f"{name}, dense"]
    moved = torch.cat([(values - first[tensor]).flatten() for tensor, values in learner.weights().items()])
    by_ranks = torch.cat([(found[tensor] - first[tensor]).flatten() for tensor in learner.weights()])
    # Gradients went as bf16, and Adam's first steps are as long for small ones as for large.
    assert float((moved - by_ranks).norm() / moved.norm()) < 0.02


def test_the_lower_rank_has_an_event_that_both_have(said: list[dict[str, Any]]) -> None:
    one, other = (found["told"] for found in said)
    assert one["reasons"] == [None, None, "unknown_item"]
    assert other["reasons"] == [None, "duplicate", "unknown_item"]
    assert one["averaged"] == other["averaged"] == [2, 2, 3]
    assert one["seen"] == other["seen"] == ["e0", "e1", "e7", "e8", "e9", "old-0", "old-1"]


def test_all_ranks_commit_or_none(said: list[dict[str, Any]]) -> None:
    for found in (one["committed"] for one in said):
        assert found["outcomes"] == ["COMMITTED", "COMMITTED", "DISK_FULL", "NOT_FINITE"]
        assert found["newest"] == found["after"] == 2


def test_ranks_that_differ_are_told_so_by_name(said: list[dict[str, Any]]) -> None:
    for found in said:
        assert "the ranks differ in their weights (rank 0: 0, rank 1: 1)" in found["disagreed"]
        assert found["gathered"] == ["from 0", ""]
