"""The journal: where training began, and every batch plan before it was applied.

One JSON line an entry. A restart repeats the plans behind its checkpoint, so the weights become what they would have
been; a run from version 1 with the same journal repeats the whole training.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from online_trainer.append_file import AppendFile, is_disk_full
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.plan import WHOLE, BatchPlan, Share


class JournalDamaged(Exception):
    """A line in the middle of the journal can't be read, or plans do not follow one another."""


class Beginning(msgspec.Struct, frozen=True, kw_only=True, tag="beginning", omit_defaults=True):
    """The first entry, written before anything is read.

    Attributes:
        model: the name this state belongs to.
        history_from: partition → first offset of the log; up to `train_from` events fill the histories.
        train_from: partition → first offset that is trained.
        share: of the topic's partitions.
    """

    model: str
    history_from: dict[int, int]
    train_from: dict[int, int]
    share: Share = WHOLE


class Passed(msgspec.Struct, frozen=True, kw_only=True, tag="passed"):
    """Plans `first` to `last` are not trained, now or when repeated: they led to weights that are not finite."""

    first: int
    last: int


Entry = Beginning | BatchPlan | Passed


class Journal:
    """Appends entries durably. For one process (the state folder is locked)."""

    def __init__(self, path: Path) -> None:
        self._file = AppendFile(path)
        self.beginning: Beginning | None = None
        self._plans: list[BatchPlan] = []
        self._passed: set[int] = set()
        for entry in self._read():
            self._take(entry)

    @property
    def last_plan(self) -> int:
        """Number of the newest plan; 0 when there is none."""
        return self._plans[-1].number if self._plans else 0

    def plans_after(self, number: int) -> list[BatchPlan]:
        """The plans behind plan `number`, in order."""
        return self._plans[number:]

    def is_passed(self, number: int) -> bool:
        """Whether plan `number` is not to be trained."""
        return number in self._passed

    def append(self, entry: Entry) -> bool:
        """Make an entry durable, or keep it for the next append when the disk is full (False).

        Until then a crash would repeat the batches since the last checkpoint with other edges: every event would
        still count once, but not bit for bit as before.
        """
        self._take(entry)
        self._file.append(msgspec.json.encode(entry) + b"\n")
        try:
            self._file.sync(lambda: reach(FaultPoint.PLAN_WRITTEN))
        except OSError as error:
            if is_disk_full(error):
                return False
            raise
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self) -> Iterable[Entry]:
        """Entries of the file; a torn last line (a crash within a write) is cut off."""
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        self._file.cut(whole)
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                yield msgspec.json.decode(line, type=Entry)
            except msgspec.DecodeError as error:
                raise JournalDamaged(f"{self._file.path}, line {number}: {error}") from error

    def _take(self, entry: Entry) -> None:
        if isinstance(entry, Beginning):
            self.beginning = entry
        elif isinstance(entry, Passed):
            self._passed.update(range(entry.first, entry.last + 1))
        elif entry.number == self.last_plan + 1:
            self._plans.append(entry)
        else:
            raise JournalDamaged(f"{self._file.path}: plan {entry.number} follows plan {self.last_plan}")
