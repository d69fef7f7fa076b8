"""The online trainer: one worker that turns events into releases, each event once whatever is killed when.

    items topic → journal (fsync) → weights, vocabulary                      every new item
    plan → journal (fsync) → collect → admit → score → step → ledger        every batch
    ledger (fsync) → checkpoint (fsync, rename) → release → announcement    every release

A crash anywhere leaves a checkpoint and the plans behind it. The restart loads the one and repeats the others, so the
weights become bit for bit what they would have been. What is published is always a committed checkpoint.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import structlog

from online_trainer.admission import Admission, Arrival
from online_trainer.append_file import is_disk_full
from online_trainer.batch import train_batch
from online_trainer.checkpoint import CheckpointState
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.growth import Growth, Newcomers
from online_trainer.intake import Intake
from online_trainer.journal import NewItems, Passed
from online_trainer.learner import Learner, StepReport, Verdict
from online_trainer.ledger import Untrained
from online_trainer.metrics import TrainerMetrics
from online_trainer.patience import Patience, Stopped
from online_trainer.plan import BatchPlan
from online_trainer.progress import NonFiniteWeights, Progress
from online_trainer.publisher import Publisher
from online_trainer.publishing import Publishing
from online_trainer.settings import TrainerSettings
from online_trainer.state import StateFolder
from streams.event_log import EventLog

_PLAN_SECONDS = 0.1
_log = structlog.get_logger(__name__)


class Trainer:
    """Trains one model and publishes it; made by `start_trainer`. For one thread, but for `patience.stop`."""

    def __init__(
        self,
        settings: TrainerSettings,
        state: StateFolder,
        learner: Learner,
        progress: Progress,
        intake: Intake,
        admission: Admission,
        publisher: Publisher,
        metrics: TrainerMetrics,
        patience: Patience,
        log: EventLog,
        newcomers: Newcomers,
    ) -> None:
        self.learner = learner
        self.progress = progress
        self.metrics = metrics
        self._settings = settings
        self._state = state
        self._intake = intake
        self._admission = admission
        self._publisher = publisher
        self._patience = patience
        self._event_log = log
        self._growth = Growth(learner, progress, admission, newcomers, self._journal_items)
        self._has_all_items = False
        self._repeats = deque(state.journal.steps_after(progress.plans_applied))
        self._publishing = Publishing(settings, publisher, metrics)

    def run(self) -> None:
        """Train until told to stop, or until the log's end with `stop_at_end`; then commit and publish.

        Raises:
            WriterReplaced: another trainer publishes this model now.
        """
        try:
            while not self._patience.stopping and (self._repeats or not self._intake.exhausted):
                self.run_once()
        except Stopped as stopped:
            _log.warning("stopped", reason=str(stopped))
        reach(FaultPoint.STOP_REQUESTED)
        self._publishing.hurry()
        self.release()
        reach(FaultPoint.STOP_COMMITTED)

    def run_once(self) -> None:
        """New items, at most one batch, then at most one release."""
        step = self._repeats.popleft() if self._repeats else self._new_plan()
        if isinstance(step, NewItems):
            self._growth.add(step)
        elif step is not None:
            self._apply(step)
        self.metrics.lag_events.set(self._intake.lag_events)
        if self._release_is_due():
            self.release()

    def release(self) -> None:
        """Commit what was applied since the last commit; publish it if the weights have changed."""
        self._publishing.begin()
        if self.progress.uncommitted and not self._commit():
            return
        if self._version > self._publishing.published and not self._publishing.waits:
            self.publish()

    def publish(self) -> None:
        """Publish and announce the committed checkpoint, unless the store has it; then announce it again.

        What the store or the log refuses is tried again with the next release. Raises WriterReplaced.
        """
        state, weights = self._committed, self.learner.weights()
        free = self._publishing.settle(state, lambda: self._publishing.write(state, weights))
        if free is not None and self._commit(free):
            self.publish()

    def close(self) -> None:
        """Let go of files and connections. What is not committed is left to the next start."""
        self._intake.close()
        self._growth.close()
        self._publisher.close()
        self._event_log.close()
        self.progress.close()
        self._state.close()

    @property
    def _committed(self) -> CheckpointState:
        assert self.progress.committed is not None, "start_trainer commits before it makes a Trainer"  # noqa: S101
        return self.progress.committed

    @property
    def _version(self) -> int:
        return self._committed.version

    def _new_plan(self) -> BatchPlan | None:
        """The next plan, journalled; what is new in the items topic has been added before it."""
        self._add_items()
        number = self._state.journal.last_plan + 1
        plan = self._patience.wait_for(lambda: self._plan(number))
        if plan is None:
            return None
        reach(FaultPoint.PLAN_CHOSEN)
        if not self._state.journal.append(plan):
            self._disk_is_full("the journal")
        reach(FaultPoint.PLAN_JOURNALLED)
        return plan

    def _add_items(self) -> None:
        """Before the first plan all that the items topic has, later a few a turn: training goes on meanwhile."""
        while self._patience.wait_for(self._growth.look) and not self._has_all_items:
            pass
        self._has_all_items = True

    def _journal_items(self, new: NewItems) -> None:
        if not self._state.journal.append(new):
            self._disk_is_full("the journal")

    def _plan(self, number: int) -> BatchPlan | None:
        self._intake.refresh_ends()
        return self._intake.plan(number, _PLAN_SECONDS)

    def _apply(self, plan: BatchPlan) -> None:
        records = self._patience.wait_for(lambda: self._intake.collect(plan))
        reach(FaultPoint.BATCH_COLLECTED)
        users = self.progress.users
        arrivals = self._patience.wait_for(lambda: self._admission.admit(records, users.seen))
        passed = self._state.journal.is_passed(plan.number)
        report, rows = train_batch(plan.number, arrivals, self.learner, users.histories, passed)
        reach(FaultPoint.BATCH_STEPPED)
        self.progress.advance(plan, rows)
        self._measure(report, arrivals)
        if report.verdict is Verdict.NON_FINITE:
            self._refused(plan, report)

    def _refused(self, plan: BatchPlan, report: StepReport) -> None:
        """A loss or gradient was not finite. If the weights are the cause, go back to the last good ones."""
        self.metrics.non_finite.inc()
        _log.error("batch_refused", plan=plan.number, loss=report.loss)
        if not self.learner.is_finite():
            self._go_back()

    def _go_back(self) -> None:
        """Pass over the plans since the last commit and go on from there: they led to weights that are not finite."""
        last = self.progress.plans_applied
        self.progress.go_back()
        self._growth.restore()
        first = self.progress.plans_applied + 1
        if not self._state.journal.append(Passed(first=first, last=last)):
            self._disk_is_full("the journal")
        self._intake.seek(self.progress.offsets)
        self._repeats = deque(self._state.journal.steps_after(self.progress.plans_applied))
        _log.error("weights_not_finite", went_back_to_version=self._version, passed_plans=[first, last])

    def _release_is_due(self) -> bool:
        progress = self.progress
        return self._publishing.is_due(self._version, progress.uncommitted_changes, progress.uncommitted)

    def _commit(self, version: int | None = None) -> bool:
        """Commit, as the next version if the weights have changed; False when it was not possible now."""
        if version is None:
            version = self._version + self.progress.uncommitted_training
        try:
            self.progress.commit(version)
        except NonFiniteWeights:
            self.metrics.non_finite.inc()
            self._go_back()
            return False
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._disk_is_full("the checkpoint")
            return False
        self.metrics.disk_full.set(0)
        return True

    def _disk_is_full(self, what: str) -> None:
        self.metrics.disk_full.set(1)
        _log.error("disk_full", what=what, state=str(self._settings.state), effect="training goes on, publishing stops")

    def _measure(self, report: StepReport, arrivals: Sequence[Arrival]) -> None:
        metrics = self.metrics
        metrics.ndcg_sum.inc(sum(report.ndcg.values()))
        trainable = sum(arrival.reason is None for arrival in arrivals)
        if report.verdict is Verdict.APPLIED:
            metrics.steps.inc()
            metrics.loss.set(report.loss)
            metrics.examples.inc(trainable)
        elif report.verdict is Verdict.NON_FINITE:
            metrics.untrained.labels(Untrained.NON_FINITE.value).inc(trainable)
        if arrivals:
            metrics.lag_seconds.set(time.time() - max(arrival.record.timestamp for arrival in arrivals))
