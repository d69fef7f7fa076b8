"""A shard's owner whose disk is full: pushes wait for it, nothing is lost, and it goes on when there is room."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from online_trainer import append_file, checkpoint
from online_trainer.exchange.messages import Encoding, Part, Pushed
from online_trainer.exchange.part_log import PartLog
from online_trainer.exchange.shard_disk import ShardDisk
from online_trainer.exchange.tensor_bytes import to_bytes
from tests.unit.online_trainer.exchange.conftest import Group, click
from tests.unit.online_trainer.exchange.test_failures import EVENTS, everything, trained, until


class Disk:
    """Of shard 1: what is written there is cut short and refused while `full` names its kind of file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full: set[str] = set()
        self.refused = 0
        write_all, write_synced = append_file._write_all, checkpoint._write_synced

        def into_parts(descriptor: int, data: bytes, offset: int) -> None:
            if self._refuses(Path(f"/proc/self/fd/{descriptor}").readlink(), "parts"):
                os.pwrite(descriptor, data[: len(data) // 2], offset)
                raise OSError(errno.ENOSPC, "No space left on device")
            write_all(descriptor, data, offset)

        def into_checkpoint(path: Path, data: bytes) -> None:
            if self._refuses(path, "checkpoints"):
                path.write_bytes(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            write_synced(path, data)

        monkeypatch.setattr(append_file, "_write_all", into_parts)
        monkeypatch.setattr(checkpoint, "_write_synced", into_checkpoint)

    def _refuses(self, path: Path, kind: str) -> bool:
        refuses = kind in self.full and f"/shard-1/{kind}/" in str(path)
        self.refused += refuses
        return refuses


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_pushes_wait_for_a_shard_without_room_for_their_parts(group: Group, disk: Disk) -> None:
    group.send(*(click(n) for n in range(EVENTS)))
    disk.full = {"parts"}
    owner = group.owner(owners=2)
    worker, thread, _ = group.worker("a")
    until(lambda: group.metric("slipstream_exchange_full_shards") == 1, "the coordinator hears of it")
    until(lambda: disk.refused >= 3, "it is tried again")
    assert group.process is not None
    assert group.process.owner.replica.index == 0, "what is not durable everywhere is not ordered"
    disk.full = set()
    thread.finish()
    owner.finish()
    assert group.metric("slipstream_exchange_full_shards") == 0
    assert trained(group) == everything()
    assert group.store.manifest("tiny", group.store.versions("tiny")[-1]).events_trained == EVENTS
    shard = group.shards[0].replica
    assert torch.equal(worker._weights[0][shard.start :], shard.weights)


def test_a_checkpoint_without_room_waits_in_memory_and_training_goes_on(
    group: Group, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.send(*(click(n) for n in range(EVENTS)))
    disk.full = {"checkpoints"}
    kept: dict[int, bytes] = {}
    keep = ShardDisk.keep

    def spy(self: ShardDisk, state: checkpoint.CheckpointState, tensors: dict[str, object]) -> None:
        kept[state.plans_applied] = to_bytes(group.shards[0].replica.serving)
        keep(self, state, tensors)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardDisk, "keep", spy)
    owner = group.owner(owners=2, publish_events=20, stop_at_end=False)
    pieces: dict[int, bytes] = {}
    assert group.process is not None
    heard = group.process.owner.on_piece
    group.process.owner.on_piece = _both(heard, pieces)
    _, thread, patience = group.worker("a")
    until(lambda: sum(group.process.owner.sequencer.offsets.values()) == EVENTS, "everything is trained")  # type: ignore[union-attr]
    until(lambda: disk.refused >= 3, "it is tried again")
    assert group.process.releaser.published == 0
    assert group.metric("slipstream_exchange_full_shards") == 1
    waits = group.shards[0]._disk.kept
    assert waits is not None and waits < group.shards[0].replica.index
    disk.full = set()
    until(lambda: group.process.releaser.published > 0, "a release")  # type: ignore[union-attr]
    patience.stop()
    thread.finish()
    group.owner_patience.stop()
    owner.finish()
    assert trained(group) == everything()
    assert pieces and pieces == {index: kept[index] for index in pieces}
    assert group.metric("slipstream_exchange_full_shards") == 0


def _both(heard: Callable[[int, int, bytes], None], pieces: dict[int, bytes]) -> Callable[[int, int, bytes], None]:
    def on_piece(shard: int, index: int, data: bytes) -> None:
        pieces[index] = data
        heard(shard, index, data)

    return on_piece


def part(seq: int) -> tuple[Part, bytes]:
    head = Part(worker="a", incarnation=1, seq=seq, start=0, stop=4, encoding=Encoding.DENSE)
    return head, bytes([seq]) * 8


def pushed(seq: int) -> Pushed:
    return Pushed(
        worker="a", incarnation=1, seq=seq, base=0, staleness=0, scale=1.0, start=0, stop=4, encoding=Encoding.DENSE
    )


def test_parts_that_were_refused_are_nowhere_and_those_before_stay(tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path / "shard-1/parts"
    log = PartLog(folder)
    log.store([part(1)])
    disk.full = {"parts"}
    with pytest.raises(OSError, match="No space"):
        log.store([part(2)])
    with pytest.raises(OSError, match="No space"):
        log.forget([])
    assert log.of(pushed(2)) is None
    disk.full = set()
    log.store([part(3)])
    log.close()
    again = PartLog(folder)
    assert [again.of(pushed(seq)) for seq in (1, 2, 3)] == [part(1)[1], None, part(3)[1]]
    assert len(list(folder.iterdir())) == 1
    again.forget([pushed(1)])
    again.close()
    last = PartLog(folder)
    assert [last.of(pushed(seq)) for seq in (1, 3)] == [None, part(3)[1]]
    last.close()
