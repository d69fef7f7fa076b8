"""Reading whole topics from their beginning, and on: how the gateway rebuilds what it knows at every start.

One thread reads every topic it was given. Without a broker it waits for one, and after an outage goes on where it
was. It also knows, within a second, whether the log answers at all (`LogHealth`), so that a request need not find out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from gateway.metrics import GatewayMetrics
from streams.event_log import EventLog, LogReader, LogUnavailable, Partition, Record

Handler = Callable[[Sequence[Record]], None]

_POLL_RECORDS = 2000
_POLL_SECONDS = 0.25
_PROBE_SECONDS = 1.0
_NOT_REACHED = "not reached yet"
_logger = structlog.get_logger("slipstream.gateway.log")


class LogHealth:
    """Whether the log answers, and if not, why. Thread-safe: one attribute, replaced whole."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._problem: str | None = _NOT_REACHED

    @property
    def problem(self) -> str | None:
        """None while the log answers."""
        return self._problem

    def up(self) -> None:
        """The log has just answered."""
        if self._problem is not None:
            _logger.info("log_up")
        self._problem = None
        self._metrics.log_up.set(1)

    def down(self, problem: str) -> None:
        """The log has just failed to answer."""
        if self._problem in (None, _NOT_REACHED):
            _logger.warning("log_down", problem=problem)
        self._problem = problem
        self._metrics.log_up.set(0)


class LogTail:
    """Follows topics in a thread of its own and hands each one's records, in offset order, to its handler.

    A topic has caught up once every record that it held when it was first reached has been handled.

    Args:
        handlers: by topic; called in the thread, never twice at once. One that raises ends the tail.
    """

    def __init__(self, log: EventLog, handlers: Mapping[str, Handler], health: LogHealth) -> None:
        self._log = log
        self._handlers = handlers
        self._health = health
        self._next: dict[Partition, int] = {}
        self._behind: dict[Partition, int] | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-tail", daemon=True)

    def start(self) -> None:
        """Begin reading; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns once no handler runs any more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def alive(self) -> bool:
        """False before `start`, after `stop`, and when a handler has failed."""
        return self._thread.is_alive()

    def caught_up(self, topic: str) -> bool:
        """Whether all that `topic` held at the start has been handled."""
        behind = self._behind
        return behind is not None and all(partition.topic != topic for partition in behind)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except LogUnavailable as error:
                self._health.down(str(error))
                self._stopped.wait(_PROBE_SECONDS)

    def _follow(self) -> None:
        partitions = [partition for topic in self._handlers for partition in self._log.partitions(topic)]
        begin = self._log.begin_offsets(partitions)
        for partition, offset in begin.items():
            # What retention has removed since the last poll can't be read any more.
            self._next[partition] = max(offset, self._next.get(partition, 0))
        if self._behind is None:
            ends = self._log.end_offsets(partitions)
            self._behind = {partition: end for partition, end in ends.items() if end > begin[partition]}
        reader = self._log.open_reader({partition: self._next[partition] for partition in partitions})
        try:
            self._health.up()
            self._read(reader, partitions)
        finally:
            reader.close()

    def _read(self, reader: LogReader, partitions: list[Partition]) -> None:
        probe_at = time.monotonic() + _PROBE_SECONDS
        while not self._stopped.is_set():
            records = reader.poll(_POLL_RECORDS, _POLL_SECONDS)
            if records:
                self._handle(records)
            for partition in partitions:
                self._next[partition] = reader.position(partition)
            self._note_progress()
            if time.monotonic() >= probe_at:
                self._log.begin_offsets(partitions[:1])
                self._health.up()
                probe_at = time.monotonic() + _PROBE_SECONDS

    def _handle(self, records: list[Record]) -> None:
        by_topic: dict[str, list[Record]] = {}
        for record in records:
            by_topic.setdefault(record.topic, []).append(record)
        for topic, found in by_topic.items():
            self._handlers[topic](found)

    def _note_progress(self) -> None:
        if self._behind:
            self._behind = {p: end for p, end in self._behind.items() if self._next[p] < end}
