"""A worker: plans over the partitions it holds, computes on the newest weights, pushes what its steps changed.

It keeps nothing of its own: whatever it has not pushed when it dies is planned again by whoever gets its partitions.
While a push is on its way it prepares the next batch (`ahead.py`), which hides the exchange and takes nothing.
"""

from __future__ import annotations

import time
from collections import Counter

import structlog
from torch import Tensor

from online_trainer.admission import Admission, Arrival
from online_trainer.batch import train_batch
from online_trainer.exchange.ahead import Ahead
from online_trainer.exchange.asynchronous import AsynchronousExchange, Covered, PushUndone
from online_trainer.exchange.messages import Measured, News, Ranges, Remembered
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.intake import Intake
from online_trainer.learner import Learner, Verdict
from online_trainer.ledger import LedgerRow
from online_trainer.metrics import TrainerMetrics
from online_trainer.patience import Patience, Stopped
from online_trainer.plan import BatchPlan
from online_trainer.users import Users
from recommender.cold_start import with_items
from recommender.examples import Interaction
from streams.event_log import EventLog

_PLAN_SECONDS = 0.1
_FOREIGN = -1
"""The dedupe window's place for ids that another worker's partitions had."""
_log = structlog.get_logger(__name__)


class Worker:
    """For one thread, but for `patience.stop`.

    Args:
        learning, serving: the flat vectors that `learner`'s two sets of weights are views of.
        slow_down: factor on the time of each batch, in proportion to its events; 1 for none. Experiments only.
    """

    def __init__(
        self,
        exchange: AsynchronousExchange,
        learner: Learner,
        learning: Tensor,
        serving: Tensor,
        log: EventLog,
        metrics: TrainerMetrics,
        patience: Patience,
        history_events: int = 1000,
        dedupe_events: int = 50_000,
        linger_seconds: float = 0.2,
        slow_down: float = 1.0,
    ) -> None:
        self.exchange = exchange
        self.learner = learner
        self.partitions: dict[int, int] = {}
        """Partitions it plans over, and where it began with each."""
        self._weights = (learning, serving)
        self._log = log
        self._patience = patience
        self._admission = Admission(log, learner.recommender.vocabulary.index, metrics)
        self._folder = learner.recommender
        self._added_items: tuple[str, ...] = ()
        self._users = Users(history_events, dedupe_events)
        self._linger_seconds = linger_seconds
        self._slow_down = slow_down
        self._intake: Intake | None = None
        self._batch_events = 0
        self._foreign: list[str] = []
        self._idle = True
        self._ahead: Ahead | None = None
        """Dropped with whatever it was prepared from: intake, dedupe windows, histories."""
        exchange.on_wait = self._get_ahead

    def run(self) -> None:
        """Join, train until told to stop, leave. Raises OwnerUnavailable, WorkerUnfit."""
        self.exchange.join()
        try:
            while not self._patience.stopping and not self.exchange.news.stop:
                self.turn()
            self.exchange.leave()
        except Stopped as stopped:
            _log.warning("stopped", reason=str(stopped))
        finally:
            self.close()

    def turn(self) -> bool:
        """Follow the assignment, then at most one push; whether there was one."""
        self._follow(self.exchange.news)
        plan = self._plan(_PLAN_SECONDS)
        if plan is None:
            self.exchange.sync(idle=True, waiting=self._waiting())
            self._idle = True
            return False
        if self._idle:
            # It was not waited for: take in what was ordered meanwhile, and be waited for from now on.
            self._idle = False
            planned_by = self._intake
            self._follow(self.exchange.sync(idle=False, waiting=self._waiting()))
            if self._intake is not planned_by:
                return False
        reach(FaultPoint.WORKER_PLANNED)
        self._train(plan)
        return True

    def close(self) -> None:
        """Let go of connections."""
        self._ahead = None
        if self._intake is not None:
            self._intake.close()
            self._intake = None
        self.exchange.close()
        self._log.close()

    def _follow(self, news: News) -> None:
        """Know the items that the weights know, and read the partitions that are held now."""
        self._know_items()
        self._batch_events = news.batch_events
        if self._intake is not None:
            self._intake.batch_events = news.batch_events
        if news.partitions.keys() == self.partitions.keys():
            return
        self._ahead = None
        for partition in self.partitions.keys() - news.partitions.keys():
            self._users.seen.replace(partition, [])
        offsets = self._intake.offsets if self._intake is not None else {}
        held = {}
        for partition in sorted(news.partitions):
            if partition in self.partitions:
                held[partition] = offsets[partition]
            elif (found := self.exchange.adopt(partition)) is not None:
                self._remember(found)
                held[partition] = found.offset
        if held != offsets:
            self._open(held)
        self.partitions = held
        reach(FaultPoint.WORKER_ASSIGNED)

    def _know_items(self) -> None:
        if self.exchange.added_items == self._added_items:
            return
        # What was prepared takes an event of a new item for one that can't be trained.
        self._ahead = None
        self._added_items = self.exchange.added_items
        known = with_items(self._folder, self._added_items)
        self.learner.know(known)
        self._admission.know(known.vocabulary.index)
        reach(FaultPoint.WORKER_ITEMS_KNOWN)

    def _remember(self, found: Remembered) -> None:
        self._users.seen.replace(found.partition, found.seen)
        for user, events in found.histories.items():
            self._users.histories.replace(user, [Interaction(item, timestamp) for item, timestamp in events])

    def _open(self, offsets: dict[int, int]) -> None:
        if self._intake is not None:
            self._intake.close()
            self._intake = None
        if offsets:
            self._intake = self._patience.wait_for(
                lambda: Intake(self._log, offsets, self._batch_events, self._linger_seconds, stop_at_end=False)
            )

    def _forget(self) -> None:
        """Go by nothing that was remembered: whatever is held is adopted anew."""
        self._ahead = None
        self.partitions = {}
        if self._intake is not None:
            self._intake.close()
            self._intake = None
        self._users.seen.replace(_FOREIGN, self._foreign)

    def _waiting(self) -> dict[int, int]:
        return self._intake.waiting() if self._intake is not None else {}

    def _plan(self, seconds: float) -> BatchPlan | None:
        """The next batch's plan; None when none was due within about `seconds`."""
        intake = self._intake
        if intake is None:
            time.sleep(seconds)
            return None

        ahead = self._ahead

        def plan() -> BatchPlan | None:
            intake.refresh_ends()
            if ahead is not None and ahead.ready:
                return ahead.plan
            return intake.plan(self.exchange.seq + 1, seconds)

        return self._patience.wait_for(plan)

    def _train(self, plan: BatchPlan) -> None:
        """Up to `local_steps` batches, and one push for them."""
        started, steps = time.monotonic(), Steps()
        before = [weights.clone() for weights in self._weights]
        first = self._look_ahead()
        following: BatchPlan | None = plan
        for _ in range(self.exchange.rule.local_steps):
            if following is None:
                break
            self._batch(following, steps)
            following = self._plan(0.0) if self.exchange.rule.local_steps > 1 else None
        update = first - self._weights[0] if steps.applied else None
        for weights, kept in zip(self._weights, before, strict=True):
            weights.copy_(kept)
        reach(FaultPoint.WORKER_COMPUTED)
        _log.debug("computed", seconds=round(time.monotonic() - started, 3), rows=len(steps.rows))
        self._be_slow(started, steps)
        if self._intake is not None:
            self._ahead = Ahead(self.exchange.seq + 2, self._intake, self._admission, self._users, self.learner)
        covered = Covered(
            steps.ranges, steps.rows, self._waiting(), self._measured(steps, time.monotonic() - started, update)
        )
        try:
            self.exchange.push(update, covered)
        except PushUndone as undone:
            self._foreign = (self._foreign + undone.event_ids)[-10_000:]
            self._forget()

    def _get_ahead(self) -> bool | None:
        """A turn of preparing the next batch."""
        return self._ahead.turn() if self._ahead is not None else None

    def _look_ahead(self) -> Tensor:
        """Step on from the weights with all this worker has learned, sent or not; a copy of these.

        An element waits some 64 pushes for its turn in a compressed update. Gradients at weights without it would ask
        for the same step again and again (benchmarks/2026-11-24-two-workers.md).
        """
        learning = self._weights[0]
        learning.sub_(self.exchange.residual, alpha=self.exchange.rule.learning_rate)
        return learning.clone()

    def _batch(self, plan: BatchPlan, steps: Steps) -> None:
        intake = self._intake
        assert intake is not None, "a plan comes from an intake"  # noqa: S101
        records = self._patience.wait_for(lambda: intake.collect(plan))
        ahead = self._ahead if self._ahead is not None and self._ahead.plan is plan else None
        self._ahead = None
        reading = ahead.reading if ahead else None
        arrivals = self._patience.wait_for(lambda: self._admission.admit(records, self._users.seen, reading))
        prepared = ahead.take(arrivals) if ahead else None
        report, rows = train_batch(plan.number, arrivals, self.learner, self._users.histories, False, prepared)
        steps.take(plan, arrivals, rows)
        if report.verdict is Verdict.APPLIED:
            steps.applied += 1
            steps.loss = report.loss
        elif report.verdict is Verdict.NON_FINITE:
            steps.refused += 1
        steps.ndcg_sum += sum(report.ndcg.values())

    def _be_slow(self, started: float, steps: Steps) -> None:
        if self._slow_down > 1:
            time.sleep((self._slow_down - 1) * (time.monotonic() - started))

    def _measured(self, steps: Steps, seconds: float, update: Tensor | None) -> Measured:
        traffic = self.exchange.traffic_since()
        nonfinite, self.exchange.nonfinite = self.exchange.nonfinite, 0
        encode, self.exchange.encode_seconds = self.exchange.encode_seconds, 0.0
        return Measured(
            compute_seconds=seconds,
            waited_seconds=traffic.waited_seconds,
            hidden_seconds=traffic.hidden_seconds,
            sent_bytes=traffic.sent_bytes,
            received_bytes=traffic.received_bytes,
            dense_bytes=4 * update.numel() if update is not None else 0,
            encode_seconds=encode,
            loss=steps.loss,
            ndcg_sum=steps.ndcg_sum,
            lag_seconds=time.time() - steps.newest if steps.newest else 0.0,
            refused_batches=steps.refused,
            nonfinite=nonfinite,
            untrained=dict(Counter(row.reason.value for row in steps.rows if row.reason is not None)),
        )


class Steps:
    """What the batches of one push covered."""

    def __init__(self) -> None:
        self.ranges: Ranges = {}
        self.rows: list[LedgerRow] = []
        self.applied = 0
        self.refused = 0
        self.loss = 0.0
        self.ndcg_sum = 0.0
        self.newest = 0.0

    def take(self, plan: BatchPlan, arrivals: list[Arrival], rows: list[LedgerRow]) -> None:
        """Add a batch."""
        for partition, (first, end) in plan.ranges.items():
            self.ranges[partition] = (self.ranges.get(partition, (first, end))[0], end)
        self.rows += rows
        self.newest = max([self.newest, *(arrival.record.timestamp for arrival in arrivals)])
