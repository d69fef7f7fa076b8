"""What a checkpoint holds, alive: how far the worker is, and how that is committed and restored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from online_trainer.checkpoint import CheckpointState
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.ledger import Ledger, LedgerRow
from online_trainer.plan import BatchPlan
from online_trainer.state import StateFolder
from online_trainer.users import Users


class NonFiniteWeights(Exception):
    """The weights or the optimizer's state hold a value that is not finite; they were not committed."""


class Holder(Protocol):
    """Who has the weights and what belongs to them: a `Learner`, or a `Replica` of several workers' orders."""

    def state(self) -> dict[str, Tensor]:
        """By name, sharing memory."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was."""

    def is_finite(self) -> bool:
        """Whether every value of the state is."""


class Progress:
    """The worker's state between two commits. Weights and optimizer live in the learner.

    Histories and dedupe windows are not in the checkpoint's tensors: they are a function of the ledger, which is
    committed with it, grows by what is new and costs a commit next to nothing. Rebuilding them reads the ledger alone,
    not Kafka: 100,000 rows in about 0.3 s.

    Args:
        history_events, dedupe_events: see `TrainerSettings`.
    """

    def __init__(self, state: StateFolder, learner: Holder, history_events: int, dedupe_events: int) -> None:
        self._state = state
        self._learner = learner
        self._bounds = (history_events, dedupe_events)
        found = state.checkpoints.newest()
        self.committed: CheckpointState | None = found[0] if found else None
        """The newest committed checkpoint; None before the first."""
        self.history = Ledger(state.history, found[0].history_bytes if found else 0)
        self.ledger = Ledger(state.ledger, found[0].ledger_bytes if found else 0)
        self.users = Users(*self._bounds)
        self.offsets: dict[int, int] = {}
        self.plans_applied = 0
        self.events_trained = 0
        self.watermark: float | None = None
        self.applied: dict[str, tuple[int, int, int]] = {}
        self.added_items: tuple[str, ...] = ()
        """Items that the weights know and the model folder does not, in slot order."""
        if found:
            self._become(*found)

    @property
    def uncommitted(self) -> bool:
        """Whether a batch or items were applied since the last commit."""
        return self.committed is None or self.plans_applied > self.committed.plans_applied or self.uncommitted_training

    @property
    def uncommitted_training(self) -> bool:
        """Whether the weights have changed since the last commit."""
        return self.uncommitted_changes > 0

    @property
    def uncommitted_changes(self) -> int:
        """Events trained and items added since the last commit; 0 before the first."""
        if (last := self.committed) is None:
            return 0
        return self.events_trained - last.events_trained + len(self.added_items) - len(last.added_items)

    def start_over(self, offsets: Mapping[int, int]) -> Users:
        """Before the first commit: empty histories, training to begin at `offsets`. Returns the empty users."""
        self.history.cut(0)
        self.users = Users(*self._bounds)
        self.offsets = dict(offsets)
        return self.users

    def advance(self, plan: BatchPlan, rows: Sequence[LedgerRow]) -> None:
        """Count an applied batch."""
        for row in rows:
            self.ledger.append(row)
        trained = [row.timestamp for row in rows if row.trained and row.timestamp is not None]
        self.events_trained += len(trained)
        self.watermark = max([*trained, *([] if self.watermark is None else [self.watermark])], default=None)
        self.offsets = plan.advanced(self.offsets)
        self.plans_applied = plan.number
        reach(FaultPoint.BATCH_LEDGERED)

    def commit(self, version: int, vote: Callable[[], None] = lambda: None) -> CheckpointState:
        """Make everything durable as one, as release `version`; `vote` as for `Checkpoints.write`.

        Raises:
            NonFiniteWeights: call `go_back`. OSError: nothing is committed.
        """
        if not self._learner.is_finite():
            raise NonFiniteWeights
        ledger_bytes = self.ledger.sync(lambda: reach(FaultPoint.COMMIT_LEDGER_WRITTEN))
        reach(FaultPoint.COMMIT_LEDGER_SYNCED)
        state = CheckpointState(
            number=self.committed.number + 1 if self.committed else 1,
            version=version,
            plans_applied=self.plans_applied,
            offsets=self.offsets,
            history_bytes=self.history.sync(),
            ledger_bytes=ledger_bytes,
            events_trained=self.events_trained,
            watermark=self.watermark,
            applied=dict(self.applied),
            added_items=self.added_items,
        )
        self._state.checkpoints.write(state, self._learner.state(), vote)
        self.committed = state
        return state

    def go_back(self) -> None:
        """Forget everything since the last commit."""
        found = self._state.checkpoints.newest()
        if found is None:
            raise NonFiniteWeights("the model's first weights are not finite; write the model folder again")
        self.committed = found[0]
        self._become(*found)

    def close(self) -> None:
        """Close the ledgers; what is not committed is lost."""
        self.history.close()
        self.ledger.close()

    def _become(self, state: CheckpointState, tensors: Mapping[str, Tensor]) -> None:
        self._learner.load_state(tensors)
        self.ledger.cut(state.ledger_bytes)
        self.users = Users(*self._bounds)
        self.users.take_all(self.history.rows())
        self.users.take_all(self.ledger.rows())
        self.offsets = dict(state.offsets)
        self.plans_applied = state.plans_applied
        self.events_trained = state.events_trained
        self.watermark = state.watermark
        self.applied = dict(state.applied)
        self.added_items = state.added_items
