"""One checkpoint of all ranks: every rank's is renamed into place, or none is."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Mapping
from enum import IntEnum

import msgspec
from torch import Tensor

from online_trainer.append_file import is_disk_full
from online_trainer.checkpoint import Checkpoints, CheckpointState
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.progress import NonFiniteWeights, Progress
from online_trainer.rounds.group import RankGroup
from online_trainer.start import StateDoesNotFit


class Outcome(IntEnum):
    """The worst that befell a rank, and so the group."""

    NOT_FINITE = 0
    DISK_FULL = 1
    COMMITTED = 2


class _Standing(msgspec.Struct, frozen=True):
    """What a rank's checkpoint adds to the group's."""

    offsets: dict[int, int]
    events_trained: int
    watermark: float | None


def commit(group: RankGroup, progress: Progress, version: int) -> Outcome:
    """Make every rank's state durable as release `version`, the same on all; the outcome is, too.

    A rank whose disk is full keeps the others from committing: checkpoints are numbered alike. Raises RankLost.
    """
    ballot = _Ballot(group)
    own = Outcome.COMMITTED
    try:
        progress.commit(version, ballot.vote)
    except NonFiniteWeights:
        own = Outcome.NOT_FINITE
    except OSError as error:
        if not is_disk_full(error):
            raise
        own = Outcome.DISK_FULL
    if ballot.outcome is None:
        ballot.ask(own)
    assert ballot.outcome is not None, "asked above"  # noqa: S101
    reach(FaultPoint.ROUND_COMMITTED)
    return ballot.outcome


def whole(group: RankGroup, committed: CheckpointState) -> CheckpointState:
    """The group's checkpoint, from every rank's: what a release says it covers."""
    standing = _Standing(committed.offsets, committed.events_trained, committed.watermark)
    found = [msgspec.json.decode(data, type=_Standing) for data in group.gather(msgspec.json.encode(standing))]
    offsets = {partition: offset for one in found for partition, offset in one.offsets.items()}
    watermarks = [one.watermark for one in found if one.watermark is not None]
    return msgspec.structs.replace(
        committed,
        offsets=dict(sorted(offsets.items())),
        events_trained=sum(one.events_trained for one in found),
        watermark=max(watermarks, default=None),
    )


def restore(group: RankGroup, checkpoints: Checkpoints) -> None:
    """Forget what not every rank has committed: the last one, of a group that ended between two renames.

    Raises:
        StateDoesNotFit: another rank's checkpoints end long before this one's.
    """
    newest = checkpoints.newest()
    number = newest[0].number if newest is not None else 0
    common = group.least(number)
    if number > common + 1:
        raise StateDoesNotFit(
            f"this worker's last checkpoint is number {number}, another's is {common}: restore the folders of all "
            "workers from one time, or begin with an empty one"
        )
    checkpoints.forget_after(common)


def checksum(weights: Mapping[str, Tensor]) -> int:
    """CRC-32 over the tensors' bytes, in their order."""
    found = 0
    for tensor in weights.values():
        found = zlib.crc32(tensor.detach().cpu().contiguous().numpy().data, found)
    return found


class _Ballot:
    """One vote of a commit, asked for once."""

    def __init__(self, group: RankGroup) -> None:
        self.outcome: Outcome | None = None
        self._group = group

    def vote(self) -> None:
        """Everything is on the disk but the rename. Raises OSError unless that is so on every rank."""
        reach(FaultPoint.ROUND_VOTED)
        if self.ask(Outcome.COMMITTED) is not Outcome.COMMITTED:
            raise OSError(errno.ENOSPC, "another worker of the group could not write its checkpoint")

    def ask(self, own: Outcome) -> Outcome:
        """The worst outcome of all ranks."""
        self.outcome = Outcome(self._group.least(own))
        return self.outcome
