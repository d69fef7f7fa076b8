"""Checkpoints: whole or absent, and the one before when the disk has damaged the newest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from online_trainer.checkpoint import Checkpoints, CheckpointState
from tests.unit.online_trainer.test_files import file_size_limit


def state(number: int) -> CheckpointState:
    return CheckpointState(
        number=number,
        version=number + 10,
        plans_applied=number * 3,
        offsets={0: number, 1: 7},
        history_bytes=5,
        ledger_bytes=number * 100,
        events_trained=number * 64,
        watermark=float(number),
    )


def tensors(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {
        "w": torch.randn(33, 5),
        "half": torch.randn(4).bfloat16(),
        "scalar": torch.tensor(3.0),
        "none": torch.empty(0, 2),
        "random": torch.get_rng_state(),
    }


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def test_the_newest_comes_back_bit_for_bit_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for number in (1, 2, 3):
        checkpoints.write(state(number), tensors(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000002", "000000000003"]
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    assert (found[0].number, found[0].version, found[0].offsets) == (3, 13, {0: 3, 1: 7})
    assert same(found[1], tensors(3))


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_one_gives_way_to_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        checkpoints.write(state(number), tensors(number))
    path = tmp_path / "000000000002" / file
    whole = path.read_bytes()
    if damage == "flip":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "truncate":
        path.write_bytes(whole[:-1])
    else:
        path.unlink()
    found = checkpoints.newest()
    assert found is not None
    assert found[0].number == 1
    assert same(found[1], tensors(1))
    checkpoints.write(state(2), tensors(22))
    again = checkpoints.newest()
    assert again is not None
    assert same(again[1], tensors(22))


def test_when_none_is_whole_that_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(1), tensors(1))
    (tmp_path / "000000000001" / "state.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match="no checkpoint is whole"):
        checkpoints.newest()


def test_a_full_disk_commits_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(state(1), tensors(1))
    with file_size_limit(500), pytest.raises(OSError, match="too large"):
        checkpoints.write(state(2), tensors(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000001"]
    checkpoints.write(state(2), tensors(2))
    found = checkpoints.newest()
    assert found is not None
    assert found[0].number == 2
