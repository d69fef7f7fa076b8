"""A rank: what `trainer.Trainer` is to one worker, for one of several that take every step together.

    look → agree → journal (fsync) → admit → tell ids → gradients, averaged → step → ledger        every round
    ledger (fsync) → checkpoint (fsync) → vote → rename → release by rank 0                        every release

A round is a function of the ranks' journals, as a batch is of one worker's. When a rank dies the group ends; all start
again from the newest checkpoint that every rank has, repeat the rounds behind it, and end bit for bit where they would
have been. What is published is always a committed checkpoint of all.
"""

from __future__ import annotations

import time
from collections import Counter, deque

import msgspec
import structlog

from online_trainer.admission import Admission, Arrival
from online_trainer.exchange.balance import batch_events
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.intake import Intake
from online_trainer.journal import Passed
from online_trainer.learner import Verdict
from online_trainer.ledger import LedgerRow, Untrained
from online_trainer.patience import Patience, Stopped
from online_trainer.plan import BatchPlan
from online_trainer.progress import Progress
from online_trainer.rounds.commit import Outcome, checksum, commit, whole
from online_trainer.rounds.dedupe import settle, share_windows
from online_trainer.rounds.group import GroupDiffers, RankGroup
from online_trainer.rounds.learner import Round, RoundsLearner
from online_trainer.rounds.metrics import RoundMetrics
from online_trainer.rounds.word import Agreement, Word
from online_trainer.rounds.writer import Writer
from online_trainer.settings import TrainerSettings
from online_trainer.state import StateFolder
from streams.event_log import EventLog, LogUnavailable, Record

_LOOK_SECONDS = 0.02
"""How long a rank looks for records before it asks the others again: they may have some."""
_SMOOTHING = 0.3
_LAST_TRIES = 2
"""Releases at the end: the version may turn out to be taken. What store or log refuse is left to the next start."""
_log = structlog.get_logger(__name__)


class Rank:
    """Made by `start_rank`. For one thread, but for `patience.stop`.

    Args:
        writer: rank 0's alone.
        local_steps: batches of a round.
        slow_down: factor on the time of each batch; experiments only.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        group: RankGroup,
        state: StateFolder,
        learner: RoundsLearner,
        progress: Progress,
        intake: Intake,
        admission: Admission,
        writer: Writer | None,
        metrics: RoundMetrics,
        patience: Patience,
        log: EventLog,
        local_steps: int = 1,
        slow_down: float = 1.0,
    ) -> None:
        self.learner = learner
        self.progress = progress
        self._settings = settings
        self._group = group
        self._state = state
        self._intake = intake
        self._admission = admission
        self._writer = writer
        self._metrics = metrics
        self._patience = patience
        self._event_log = log
        self._local_steps = local_steps
        self._slow_down = slow_down
        self._repeats = deque(state.journal.plans_after(progress.plans_applied))
        self._planned: BatchPlan | None = None
        """A batch that is due and not read yet; the group waits for it, so that rounds do not depend on the clock."""
        self._next: tuple[BatchPlan, list[Record]] | None = None
        self._speeds: dict[int, float] = {}
        self._said = Word()
        self._round_ended = False

    def run(self) -> None:
        """Until a rank is told to stop, or all are at the log's end; then commit and publish.

        Raises:
            RankLost: start all ranks again. GroupDiffers. WriterReplaced: another trainer publishes this model now.
        """
        try:
            while self.turn():
                pass
        except Stopped as stopped:
            # The others' next word finds this one gone.
            _log.warning("stopped", reason=str(stopped))
            return
        reach(FaultPoint.STOP_REQUESTED)
        if self._writer is not None:
            self._writer.hurry()
        for _ in range(_LAST_TRIES):
            version = self._agree(last=True).version
            if not version or not self._release(version):
                break
        reach(FaultPoint.STOP_COMMITTED)

    def turn(self) -> bool:
        """At most one round, then at most one release; False when the group ends."""
        self._look()
        agreed = self._agree()
        if agreed.over:
            return False
        if agreed.sick:
            self._go_back()
        elif agreed.begins:
            reach(FaultPoint.ROUND_AGREED)
            self._round(agreed)
        if agreed.version:
            self._release(agreed.version)
        return True

    def publish(self) -> None:
        """Get out what the group has committed; a call of all ranks."""
        assert self.progress.committed is not None, "start_rank commits"  # noqa: S101
        state = whole(self._group, self.progress.committed)
        if self._writer is not None:
            self._writer.publish(state, self.learner.weights())

    def close(self) -> None:
        """Let go of files and connections. What is not committed is left to the next start."""
        self._intake.close()
        if self._writer is not None:
            self._writer.close()
        self._event_log.close()
        self.progress.close()
        self._state.close()

    def _look(self) -> None:
        """Have the next batch planned and read, if one is due."""
        if self._next is not None:
            return
        try:
            if self._planned is None:
                self._planned = self._repeats.popleft() if self._repeats else self._plan()
            if self._planned is not None and self._intake.peek(self._planned, _LOOK_SECONDS) is not None:
                self._next = (self._planned, self._intake.collect(self._planned))
                self._planned = None
        except LogUnavailable as error:
            # The others may have batches to go on with.
            _log.warning("log_unavailable", error=str(error))

    def _plan(self) -> BatchPlan | None:
        self._intake.refresh_ends()
        return self._intake.plan(self._number, _LOOK_SECONDS)

    @property
    def _number(self) -> int:
        """Of the next round."""
        return self.progress.plans_applied + 1

    def _agree(self, last: bool = False) -> Agreement:
        agreed = Agreement(self._group.tell(self._word(last)))
        if len({word.number for word in agreed.words}) > 1:
            raise GroupDiffers(f"the ranks are at rounds {[int(word.number) for word in agreed.words]}: a defect")
        if self._writer is not None:
            self._writer.hear(agreed.words)
        self._metrics.show(agreed.words, self._round_ended)
        if self._round_ended:
            self._balance(agreed)
        self._round_ended = False
        self._said = self._said._replace(trained=0)
        return agreed

    def _word(self, last: bool) -> Word:
        journal, number = self._state.journal, self._number
        journalled = number <= journal.last_plan
        encoding = self._next[0].compressed if journalled and self._next else self.learner.compressed
        return self._said._replace(
            number=number,
            ready=self._next is not None,
            owes=self._planned is not None,
            passed=journal.is_passed(number),
            encoding=-1 if encoding is None else encoding,
            journalled=journalled and self._next is not None,
            ending=self._patience.stopping,
            exhausted=self._intake.exhausted and not (self._planned or self._next or self._repeats),
            lag_events=self._intake.lag_events,
            version=self._writer.version(self.progress, last) if self._writer is not None else 0,
        )

    def _balance(self, agreed: Agreement) -> None:
        """Follow measured speeds: a slower rank has smaller batches, so that nobody waits for it."""
        for rank, word in enumerate(agreed.words):
            if word.trained and word.compute_seconds:
                speed = word.trained / word.compute_seconds
                before = self._speeds.get(rank, speed)
                self._speeds[rank] = before + _SMOOTHING * (speed - before)
        if len(self._speeds) == self._group.size:
            names = {str(rank): speed for rank, speed in self._speeds.items()}
            sizes = {int(name): size for name, size in batch_events(names, self._settings.batch_events).items()}
            self._intake.batch_events = sizes[self._group.rank] * self._local_steps
            self._metrics.balance(self._speeds, sizes)

    def _round(self, agreed: Agreement) -> None:
        plan, records = self._begin(agreed)
        reach(FaultPoint.BATCH_COLLECTED)
        users = self.progress.users
        arrivals = self._patience.wait_for(lambda: self._admission.admit(records, users.seen))
        arrivals, averaged = settle(self._group, arrivals, users.seen)
        reach(FaultPoint.ROUND_IDS_TOLD)
        started, waited = time.monotonic(), self.learner.traffic.waited_seconds
        self._metrics.encoding(plan.compressed)
        round_ = Round(plan.number, averaged, plan.compressed, agreed.passed, self._local_steps)
        loss, verdict, rows = self.learner.train(round_, arrivals, users.histories)
        seconds = time.monotonic() - started - (self.learner.traffic.waited_seconds - waited)
        if self._slow_down > 1:
            time.sleep((self._slow_down - 1) * seconds)
            seconds *= self._slow_down
        reach(FaultPoint.BATCH_STEPPED)
        self.progress.advance(plan, rows)
        self._say(loss, verdict, rows, arrivals, seconds)

    def _begin(self, agreed: Agreement) -> tuple[BatchPlan, list[Record]]:
        """The own part of the round, journalled: the batch that was due, else what waits, else nothing."""
        if self._next is None:
            plan = self._intake.early(self._number)
            self._next = (plan, self._intake.collect(plan))
        (plan, records), self._next = self._next, None
        if plan.number > self._state.journal.last_plan:
            plan = msgspec.structs.replace(plan, compressed=agreed.compressed)
            reach(FaultPoint.PLAN_CHOSEN)
            if not self._state.journal.append(plan):
                self._disk_is_full("the journal")
            reach(FaultPoint.PLAN_JOURNALLED)
        return plan, records

    def _say(
        self, loss: float, verdict: Verdict, rows: list[LedgerRow], arrivals: list[Arrival], seconds: float
    ) -> None:
        """The next word's part about this round."""
        reasons = Counter(row.reason for row in rows)
        newest = max((arrival.record.timestamp for arrival in arrivals), default=None)
        traffic = self.learner.traffic
        self._round_ended = True
        self._said = Word(
            trained=sum(row.trained for row in rows),
            unreadable=reasons[Untrained.UNREADABLE],
            duplicate=reasons[Untrained.DUPLICATE],
            unknown=reasons[Untrained.UNKNOWN_ITEM],
            compute_seconds=seconds,
            ndcg_sum=sum(row.ndcg or 0.0 for row in rows),
            loss=loss if verdict is Verdict.APPLIED else 0.0,
            refused=verdict is Verdict.NON_FINITE,
            sick=verdict is Verdict.NON_FINITE and not self.learner.is_finite(),
            lag_seconds=0.0 if newest is None else time.time() - newest,
            waited_seconds=traffic.waited_seconds,
            hidden_seconds=traffic.hidden_seconds,
            sent_bytes=traffic.sent_bytes,
            nonfinite=self.learner.nonfinite,
        )
        if verdict is Verdict.NON_FINITE:
            _log.error("batch_refused", plan=self.progress.plans_applied, loss=loss)

    def _release(self, version: int) -> bool:
        """Commit as `version` with all ranks, and get it out; whether it was committed."""
        assert self.progress.committed is not None, "start_rank commits"  # noqa: S101
        if self._writer is not None:
            self._writer.begin()
        if self.progress.uncommitted or version > self.progress.committed.version:
            self._group.must_agree("their weights", checksum(self.learner.weights()))
            outcome = commit(self._group, self.progress, version)
            if outcome is Outcome.NOT_FINITE:
                self._go_back()
            elif outcome is Outcome.DISK_FULL:
                self._disk_is_full("a worker's checkpoint")
            if outcome is not Outcome.COMMITTED:
                return False
            self._metrics.disk(full=False)
            if self._writer is not None:
                self._writer.committed()
        self.publish()
        return True

    def _go_back(self) -> None:
        """Pass over the rounds since the last commit: they led to weights that are not finite."""
        last = self.progress.plans_applied
        self.progress.go_back()
        first = self._number
        if not self._state.journal.append(Passed(first=first, last=last)):
            self._disk_is_full("the journal")
        self._intake.seek(self.progress.offsets)
        self._planned = self._next = None
        self._said = Word()
        self._repeats = deque(self._state.journal.plans_after(self.progress.plans_applied))
        share_windows(self._group, self.progress.users.seen, list(self.progress.offsets))
        _log.error("weights_not_finite", passed_rounds=[first, last])

    def _disk_is_full(self, what: str) -> None:
        self._metrics.disk(full=True)
        _log.error("disk_full", what=what, state=str(self._state.folder), effect="training goes on, publishing stops")
