"""Reading the events topic: what waits, which batch comes next, and the records of a batch."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter

from contracts import topics
from online_trainer.plan import BatchPlan, share_out
from streams.event_log import EventLog, Partition, Record

_POLL_SECONDS = 0.05
POLL_RECORDS = 1000

_LAG_SECONDS = 1.0
_offset, _partition = attrgetter("offset"), attrgetter("partition")


class Intake:
    """One reader over the assigned partitions.

    A plan takes `batch_events` offsets as soon as so many wait, or what there is once the oldest has waited for
    `linger_seconds`. While a backlog lasts, plans depend on the log's ends alone and not on what has been fetched, so
    that they are the same on every run.

    Args:
        start: partition → next offset.
        stop_at_end: take the log's ends as they are now for the last; linger for nothing.
    """

    def __init__(
        self, log: EventLog, start: Mapping[int, int], batch_events: int, linger_seconds: float, stop_at_end: bool
    ) -> None:
        self.offsets = dict(start)
        """Partition → first offset that no plan has taken."""
        self._log = log
        self.batch_events = batch_events
        """May be changed between two plans."""
        self._linger_seconds = linger_seconds
        self._stop_at_end = stop_at_end
        self._partitions = {number: Partition(topics.EVENTS, number) for number in sorted(start)}
        self._reader = log.open_reader({self._partitions[number]: offset for number, offset in start.items()})
        self._fetched: dict[int, list[Record]] = {number: [] for number in self._partitions}
        self._ends: dict[int, int] = {}
        self._ends_at = 0.0
        self._waiting_since: float | None = None
        self.refresh_ends()

    @property
    def lag_events(self) -> int:
        """Offsets that wait, as far as is known (at most a second old)."""
        return sum(self._available().values())

    def waiting(self) -> dict[int, int]:
        """Partition → offsets that wait, as far as is known."""
        return self._available()

    @property
    def exhausted(self) -> bool:
        """With `stop_at_end`: every offset up to the end has been planned."""
        return self._stop_at_end and not self.lag_events

    def plan(self, number: int, timeout_seconds: float) -> BatchPlan | None:
        """The next batch's plan, or None when none was due within about `timeout_seconds`. Raises LogUnavailable."""
        deadline = time.monotonic() + timeout_seconds
        while not self._is_due(available := self._available()):
            if time.monotonic() >= deadline or self.exhausted:
                return None
            self._fetch()
        self._waiting_since = None
        return self._planned(number, available)

    def early(self, number: int) -> BatchPlan:
        """A plan of what has been fetched and would soon be due: others begin a round now. It may be empty."""
        self._waiting_since = None
        available = self._available()
        return self._planned(number, {p: min(available[p], len(found)) for p, found in self._fetched.items()})

    def foresee(self, number: int, timeout_seconds: float) -> BatchPlan | None:
        """What `plan` would return, if so much waits that the batch is full; looks once. Raises LogUnavailable.

        Takes nothing and asks for no ends: a batch that is not full might still grow.
        """
        if sum(self._available().values()) < self.batch_events:
            self._fetch(timeout_seconds)
        available = self._available()
        return self._planned(number, available) if sum(available.values()) >= self.batch_events else None

    def peek(self, plan: BatchPlan, timeout_seconds: float) -> list[Record] | None:
        """What `collect` would return, if it is there; looks once, takes nothing. Raises LogUnavailable."""
        if self._is_missing(plan):
            self._fetch(timeout_seconds)
        if self._is_missing(plan):
            return None
        return [record for partition, count in self._counts(plan) for record in self._fetched[partition][:count]]

    def collect(self, plan: BatchPlan) -> list[Record]:
        """The records of a plan, by partition, then offset; blocks until they are there.

        Raises:
            LogUnavailable: call again, nothing is lost.
        """
        while self._is_missing(plan):
            self._fetch()
        records = []
        for partition, count in self._counts(plan):
            records += self._fetched[partition][:count]
            del self._fetched[partition][:count]
        self.offsets = plan.advanced(self.offsets)
        return records

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Read on from other offsets of the same partitions."""
        for number, partition in self._partitions.items():
            self.offsets[number] = offsets[number]
            self._fetched[number].clear()
            self._reader.seek(partition, offsets[number])

    def refresh_ends(self) -> None:
        """Ask for the log's ends, at most once a second; once only with `stop_at_end`. Raises LogUnavailable."""
        now = time.monotonic()
        if self._ends and (self._stop_at_end or now - self._ends_at < _LAG_SECONDS):
            return
        ends = self._log.end_offsets(list(self._partitions.values()))
        self._ends = {partition.partition: end for partition, end in ends.items()}
        self._ends_at = now

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _available(self) -> dict[int, int]:
        """Partition → offsets known to exist and not yet planned."""
        known = self._ends
        if not self._stop_at_end:
            known = {n: max(end, self._reader.position(self._partitions[n])) for n, end in self._ends.items()}
        return {number: max(0, end - self.offsets[number]) for number, end in known.items()}

    def _planned(self, number: int, available: Mapping[int, int]) -> BatchPlan:
        shares = share_out(available, self.batch_events)
        return BatchPlan(
            number=number,
            ranges={p: (self.offsets[p], self.offsets[p] + share) for p, share in shares.items()},
        )

    def _is_missing(self, plan: BatchPlan) -> bool:
        return any(self._reader.position(self._partitions[p]) < end for p, (_, end) in plan.ranges.items())

    def _counts(self, plan: BatchPlan) -> list[tuple[int, int]]:
        """Partition, and how many of its fetched records are the plan's; in order."""
        return [(p, bisect_left(self._fetched[p], end, key=_offset)) for p, (_, end) in sorted(plan.ranges.items())]

    def _is_due(self, available: Mapping[int, int]) -> bool:
        waiting = sum(available.values())
        if waiting >= self.batch_events or (waiting and self._stop_at_end):
            return True
        if not waiting:
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        return time.monotonic() - self._waiting_since >= self._linger_seconds

    def _fetch(self, timeout_seconds: float = _POLL_SECONDS) -> None:
        for number, records in groupby(self._reader.poll(POLL_RECORDS, timeout_seconds), _partition):
            self._fetched[number].extend(records)
