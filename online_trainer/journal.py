"""The journal: where training began, and every batch plan and every new item before it was applied.

One JSON line an entry. A restart repeats the entries behind its checkpoint, so the weights become what they would have
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


class NewItems(msgspec.Struct, frozen=True, kw_only=True, tag="items"):
    """Items that get the next reserved slots, between two plans.

    The rows themselves are kept, so that a restart needs neither titles nor the items topic, which may say something
    else by then.

    Attributes:
        after: number of the plan they follow; 0 before the first.
        item_ids: in slot order.
        starts: checkpoint name → their rows, fp32, row-major, little-endian.
    """

    after: int
    item_ids: tuple[str, ...]
    starts: dict[str, bytes]


Step = BatchPlan | NewItems
"""What is applied to the weights, in the journal's order."""
Entry = Beginning | BatchPlan | Passed | NewItems


class Journal:
    """Appends entries durably. For one process (the state folder is locked)."""

    def __init__(self, path: Path) -> None:
        self._file = AppendFile(path)
        self.beginning: Beginning | None = None
        self._plans: list[BatchPlan] = []
        self._new_items: list[NewItems] = []
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

    def steps_after(self, number: int) -> list[Step]:
        """The plans behind plan `number`, and the items behind it, in order."""
        steps: list[Step] = [*self.plans_after(number), *(new for new in self._new_items if new.after >= number)]
        # Items follow the plan they name.
        return sorted(steps, key=lambda step: step.after + 0.5 if isinstance(step, NewItems) else step.number)

    def is_passed(self, number: int) -> bool:
        """Whether plan `number` is not to be trained."""
        return number in self._passed

    def append(self, entry: Entry) -> bool:
        """Make an entry durable, or keep it for the next append when the disk is full (False).

        Until then a crash would repeat the batches since the last checkpoint with other edges: every event would
        still count once, but not bit for bit as before.
        """
        written = FaultPoint.ITEMS_WRITTEN if isinstance(entry, NewItems) else FaultPoint.PLAN_WRITTEN
        self._take(entry)
        self._file.append(msgspec.json.encode(entry) + b"\n")
        try:
            self._file.sync(lambda: reach(written))
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
        elif isinstance(entry, NewItems):
            if entry.after != self.last_plan:
                raise JournalDamaged(f"{self._file.path}: items of plan {entry.after} follow plan {self.last_plan}")
            self._new_items.append(entry)
        elif entry.number == self.last_plan + 1:
            self._plans.append(entry)
        else:
            raise JournalDamaged(f"{self._file.path}: plan {entry.number} follows plan {self.last_plan}")
