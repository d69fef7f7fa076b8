"""What a shard's owner keeps on its disk, and in memory while that is full."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import structlog
from torch import Tensor

from online_trainer.append_file import is_disk_full
from online_trainer.checkpoint import Checkpoints, CheckpointState
from online_trainer.exchange.messages import Part, Pushed
from online_trainer.exchange.part_log import PartLog
from online_trainer.fault_points import FaultPoint, reach

_TRY_AGAIN_SECONDS = 0.5
_log = structlog.get_logger(__name__)
Saved = tuple[CheckpointState, dict[str, Tensor]]


class HeldPart(NamedTuple):
    """A part that is not durable yet, and who waits to be told that it is: sender and the request's number."""

    sender: bytes
    number: int
    part: Part
    data: bytes


class ShardDisk:
    """Parts and checkpoints of shard `number`. For one thread.

    On a full disk nothing is acknowledged that is not durable: workers wait with their pushes, at most one part each,
    and a checkpoint waits as the copy it was made of. Both are tried again twice a second.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.full = False
        """Whether something waits for room."""
        self._number = number
        self._parts = PartLog(folder / "parts")
        self._checkpoints = Checkpoints(folder / "checkpoints")
        self._held: dict[tuple[str, int, int], HeldPart] = {}
        self._kept: Saved | None = None
        self._try_at = 0.0

    @property
    def kept(self) -> int | None:
        """Order of the checkpoint that waits for room."""
        return None if self._kept is None else self._kept[0].plans_applied

    def newest(self) -> Saved | None:
        """The newest checkpoint on the disk."""
        return self._checkpoints.newest()

    def part_of(self, pushed: Pushed) -> bytes | None:
        """The stored part of an ordered push."""
        return self._parts.of(pushed)

    def hold(self, parts: Sequence[HeldPart]) -> None:
        """Parts for the next `store`. One that is sent again, or anew, takes the place of the earlier one."""
        for held in parts:
            self._held[held.part.worker, held.part.incarnation, held.part.seq] = held

    def store(self) -> list[HeldPart]:
        """Make the parts that are held durable as one; returns them, or none when there is no room for them yet."""
        held = list(self._held.values())
        if not held or not self._found_room(lambda: self._parts.store([(one.part, one.data) for one in held])):
            return []
        self._held.clear()
        return held

    def keep(self, state: CheckpointState, tensors: dict[str, Tensor]) -> None:
        """A checkpoint for the next `save`, in place of one that still waits. The tensors must not change."""
        self._kept = (state, tensors)

    def save(self) -> Saved | None:
        """Write the checkpoint that is kept; returns it, or None when there is none or no room for it yet."""
        kept = self._kept
        if kept is None or not self._found_room(lambda: self._checkpoints.write(*kept)):
            return None
        self._kept = None
        reach(FaultPoint.SHARD_CUT_WRITTEN)
        return kept

    def forget(self, applied: Sequence[Pushed]) -> bool:
        """Parts of these pushes are not read again; False when there is no room to write down what is left."""
        return self._found_room(lambda: self._parts.forget(applied))

    def settle(self) -> bool:
        """After `store` and `save`: whether `full` has changed; logs when it has."""
        full = bool(self._held) or self._kept is not None
        if full == self.full:
            return False
        self.full = full
        if full:
            _log.error(
                "disk_full",
                what=f"parts or the checkpoint of shard {self._number}",
                effect="pushes wait and publishing stops; make room",
            )
        else:
            _log.warning("disk_has_room", what=f"shard {self._number}")
        return True

    def close(self) -> None:
        """Close the file."""
        self._parts.close()

    def _found_room(self, write: Callable[[], None]) -> bool:
        if self.full and time.monotonic() < self._try_at:
            return False
        try:
            write()
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._try_at = time.monotonic() + _TRY_AGAIN_SECONDS
            return False
        return True
