"""A checkpoint: everything the trainer is, in one folder that appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec
import structlog
from torch import Tensor

from contracts.release import Sha256, Version
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.tensors import from_raw, to_raw
from releases.bundle import ReleaseCorrupt
from releases.files import sync_folder
from releases.tensor_file import read_tensors, write_tensors

_STATE, _TENSORS, _UNFINISHED = "state.json", "tensors.safetensors", ".unfinished"
_KEEP = 2
_log = structlog.get_logger(__name__)


class CheckpointState(msgspec.Struct, frozen=True, kw_only=True):
    """What stands beside the tensors.

    Attributes:
        number: 1, 2, 3, …; the folder's name.
        version: of the weights in it: the release that it is published as.
        plans_applied: number of the last plan in it; the journal's plans behind it are repeated.
        offsets: partition → first offset not in it. The partitions are this worker's assignment.
        history_bytes, ledger_bytes: how much of `history.jsonl` and `prequential.jsonl` counts.
        events_trained: distinct events in the weights since pre-training.
        watermark: largest event time in the weights; None before the first.
        tensors_sha256: of the tensors' file.
        added_items: items that the weights know and the model folder does not, in slot order.
        applied: worker → incarnation, sequence number and order of its newest push; empty for a single worker.
    """

    number: int
    version: Version
    plans_applied: int
    offsets: dict[int, int]
    history_bytes: int
    ledger_bytes: int
    events_trained: int
    watermark: float | None
    tensors_sha256: Sha256 = "0" * 64
    applied: dict[str, tuple[int, int, int]] = {}
    added_items: tuple[str, ...] = ()
    schema_version: Literal[1] = 1


class Checkpoints:
    """The last two checkpoints of one worker, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(
        self, state: CheckpointState, tensors: Mapping[str, Tensor], vote: Callable[[], None] = lambda: None
    ) -> None:
        """Make a checkpoint durable; with the rename it is committed. Older ones than the last two go.

        Args:
            vote: called once everything is on the disk but the rename; an OSError of its leaves nothing behind.

        Raises:
            OSError: nothing is committed, e.g. for a full disk.
        """
        unfinished, target = self._folder / _UNFINISHED, self._folder / f"{state.number:012d}"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            unfinished.mkdir()
            data = write_tensors(to_raw(tensors))
            _write_synced(unfinished / _TENSORS, data)
            reach(FaultPoint.COMMIT_TENSORS_WRITTEN)
            state = msgspec.structs.replace(state, tensors_sha256=hashlib.sha256(data).hexdigest())
            _write_synced(unfinished / _STATE, msgspec.json.encode(state))
            sync_folder(unfinished)
            reach(FaultPoint.COMMIT_STATE_WRITTEN)
            vote()
            unfinished.rename(target)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        sync_folder(self._folder)
        reach(FaultPoint.COMMIT_RENAMED)
        for number in self._numbers()[:-_KEEP]:
            shutil.rmtree(self._folder / f"{number:012d}")
        reach(FaultPoint.COMMIT_OLD_REMOVED)

    def forget_after(self, number: int) -> None:
        """Remove the checkpoints behind `number`: others of a group did not come to commit theirs."""
        for found in self._numbers():
            if found > number:
                shutil.rmtree(self._folder / f"{found:012d}")
        sync_folder(self._folder)

    def newest(self) -> tuple[CheckpointState, dict[str, Tensor]] | None:
        """The newest checkpoint that is whole; None when there is none.

        One that the disk has damaged is set aside with an error in the log: the one before it and the journal lead to
        the same weights.

        Raises:
            ValueError: there are checkpoints and none is whole.
        """
        numbers = self._numbers()
        for number in reversed(numbers):
            folder = self._folder / f"{number:012d}"
            try:
                return _read(folder)
            except (OSError, ValueError, ReleaseCorrupt) as error:
                _log.error("checkpoint_damaged", folder=str(folder), error=str(error))
                folder.rename(self._folder / f".damaged-{number:012d}-{os.getpid()}")
        if numbers:
            raise ValueError(f"{self._folder}: no checkpoint is whole; restore the folder, or start with an empty one")
        return None

    def _numbers(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())


def _read(folder: Path) -> tuple[CheckpointState, dict[str, Tensor]]:
    state = msgspec.json.decode((folder / _STATE).read_bytes(), type=CheckpointState)
    data = (folder / _TENSORS).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != state.tensors_sha256:
        raise ValueError(f"{folder / _TENSORS} has sha256 {found}, should have {state.tensors_sha256}")
    return state, from_raw(read_tensors(data))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
