"""The next batch, prepared while a push is on its way."""

from __future__ import annotations

from online_trainer.admission import Admission, Arrival, Reading
from online_trainer.batch import Prepared, prepare
from online_trainer.intake import Intake
from online_trainer.learner import Learner
from online_trainer.plan import BatchPlan
from online_trainer.users import Users
from streams.event_log import LogUnavailable, Record

_POLL_SECONDS = 0.002
"""A turn that looks for records takes no longer: an answer that comes meanwhile waits for its end."""


class Ahead:
    """Plans, reads, decodes, groups and builds the tensors of one batch, and takes nothing.

    Offsets, fetched records, dedupe window, histories and dead letters are as before: whoever drops it has lost nothing
    and finds every record again. The batch is taken where every other one is, after the answer; what was foreseen here
    is used if it has come true.

    Args:
        number: of the plan.
    """

    def __init__(self, number: int, intake: Intake, admission: Admission, users: Users, learner: Learner) -> None:
        self.plan: BatchPlan | None = None
        self.reading: Reading | None = None
        self._number = number
        self._intake = intake
        self._admission = admission
        self._users = users
        self._learner = learner
        self._records: list[Record] | None = None
        self._arrivals: list[Arrival] = []
        self._prepared: Prepared | None = None

    @property
    def ready(self) -> bool:
        """Whether there is nothing left to prepare."""
        return self._prepared is not None

    def turn(self) -> bool | None:
        """One turn of `link.Work`."""
        try:
            return self._turn()
        except LogUnavailable:
            # It is waited for, and said so, where the batch is taken.
            return None

    def take(self, arrivals: list[Arrival]) -> Prepared | None:
        """What was prepared, if `arrivals` are those that were foreseen."""
        return self._prepared if arrivals == self._arrivals else None

    def _turn(self) -> bool | None:
        if self.plan is None:
            self.plan = self._intake.foresee(self._number, _POLL_SECONDS)
            return self.plan is not None
        if self._records is None:
            self._records = self._intake.peek(self.plan, _POLL_SECONDS)
            return self._records is not None
        if self.reading is None:
            self.reading = self._admission.read(self._records)
            self._arrivals = self._admission.foresee(self._records, self.reading, self._users.seen)
            return True
        if self._prepared is None:
            self._prepared = prepare(self._arrivals, self._learner, self._users.histories)
            return True
        return None
