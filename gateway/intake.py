"""`POST /v1/events`: nothing is acknowledged before the log has it, and nothing waits without a bound."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import msgspec

from contracts.event import Event
from contracts.recommendation import EventReceipt, RejectedEvent
from contracts.topics import EVENTS
from contracts.wire import encode
from gateway.interactions import Interactions
from gateway.log_tail import LogHealth
from gateway.metrics import GatewayMetrics
from gateway.problems import ProblemError, invalid, unavailable
from gateway.settings import GatewaySettings
from gateway.validation import EventValidator, Rejection
from streams.event_log import EventLog, LogSaturated, LogUnavailable, Position

Acknowledged = Mapping[str, Position]


class Intake:
    """Takes batches of events into the log. For one event loop.

    An id that the log has acknowledged within the dedupe window, or that is on its way, is not produced again: it
    counts as accepted, and as a duplicate. An id whose produce failed is unknown, so the client's retry is a first try.

    Args:
        items_known: whether the items topic has been read; until then no event is refused for its item.
    """

    def __init__(
        self,
        log: EventLog,
        health: LogHealth,
        interactions: Interactions,
        metrics: GatewayMetrics,
        settings: GatewaySettings,
        items_known: Callable[[], bool],
    ) -> None:
        self._log = log
        self._health = health
        self._interactions = interactions
        self._metrics = metrics
        self._settings = settings
        self._validator = EventValidator(interactions.items, settings.future_tolerance_seconds, items_known)
        self._on_their_way: dict[str, asyncio.Task[Acknowledged]] = {}

    async def take(self, raw_events: Sequence[msgspec.Raw]) -> EventReceipt:
        """Returns once the log has every event that was not rejected.

        Raises:
            ProblemError: 422 when every event was rejected; 503 when the log did not acknowledge in time, or when too
                many events wait for it already. The client may send the same batch again.
        """
        started = time.perf_counter()
        events, rejected = self._validator.check(raw_events)
        self._metrics.events("any", "rejected", len(rejected))
        if not events:
            detail = f"none of the {len(raw_events)} events can be taken: {rejected[0].detail}"
            raise invalid(detail, [rejection.in_batch() for rejection in rejected])
        fresh = self._fresh(events)
        try:
            self._send(fresh)
            await self._acknowledged(events)
        except LogUnavailable as error:
            self._metrics.events("any", "unacknowledged", len(events))
            raise log_unavailable(str(error)) from error
        self._metrics.ack_seconds.observe(time.perf_counter() - started)
        return self._receipt(events, fresh, rejected)

    async def drain(self) -> None:
        """Wait a while for what is on its way; what is then unacknowledged was never said to be taken."""
        tasks = set(self._on_their_way.values())
        if tasks:
            await asyncio.wait(tasks, timeout=self._settings.ack_timeout_seconds)

    def _fresh(self, events: list[Event]) -> list[Event]:
        """Events that are neither in the log nor on their way there; of two with one id the first."""
        knows = self._interactions.histories.knows
        fresh: dict[str, Event] = {}
        for event in events:
            if event.event_id not in self._on_their_way and not knows(event.event_id):
                fresh.setdefault(event.event_id, event)
        return list(fresh.values())

    def _send(self, fresh: list[Event]) -> None:
        if not fresh:
            return
        if self._health.problem is not None:
            raise LogUnavailable(self._health.problem)
        if len(self._on_their_way) + len(fresh) > self._settings.max_pending_events:
            raise LogUnavailable(f"{len(self._on_their_way)} events wait for it already")
        task = asyncio.create_task(self._produce(fresh))
        for event in fresh:
            self._on_their_way[event.event_id] = task

    async def _produce(self, events: list[Event]) -> Acknowledged:
        """Append; a request that stopped waiting doesn't end this, so what the log acknowledges late still counts."""
        futures: dict[str, Future[Position]] = {}
        try:
            with contextlib.suppress(LogSaturated):  # what was not taken stays unacknowledged
                for event in events:
                    futures[event.event_id] = self._log.produce(EVENTS, event.user_id.encode(), encode(event))
            await all_done(list(futures.values()))
            positions = {event_id: f.result() for event_id, f in futures.items() if f.exception() is None}
            taken = [(e, positions[e.event_id].offset) for e in events if e.event_id in positions]
            self._interactions.absorb(taken)
            return positions
        finally:
            for event in events:
                del self._on_their_way[event.event_id]

    async def _acknowledged(self, events: list[Event]) -> None:
        """Waits for what is on its way. Raises LogUnavailable: not all of it came in time."""
        waits_for = {event.event_id: self._on_their_way.get(event.event_id) for event in events}
        tasks = {task for task in waits_for.values() if task is not None}
        if not tasks:
            return
        _, pending = await asyncio.wait(tasks, timeout=self._settings.ack_timeout_seconds)
        if pending:
            problem = f"no acknowledgement within {self._settings.ack_timeout_seconds} s"
            self._health.down(problem)
            raise LogUnavailable(problem)
        missing = [i for i, task in waits_for.items() if task is not None and i not in task.result()]
        if missing:
            raise LogUnavailable(f"{len(missing)} of {len(events)} events were not acknowledged")

    def _receipt(self, events: list[Event], fresh: list[Event], rejected: list[Rejection]) -> EventReceipt:
        for event in fresh:
            self._metrics.events(event.event_type, "accepted")
        duplicates = len(events) - len(fresh)
        self._metrics.events("any", "duplicate", duplicates)
        refused = [RejectedEvent(r.index, f"{r.pointer or 'the event'}: {r.detail}") for r in rejected]
        return EventReceipt(accepted=len(events), rejected=refused, duplicates=duplicates)


def log_unavailable(why: str) -> ProblemError:
    """503: nothing of the batch is acknowledged."""
    detail = f"the event log has not taken the batch ({why}): send it again, ids that got through count once"
    return unavailable("log-unavailable", "Event log unavailable", detail)


async def all_done(futures: Sequence[Future[Position]]) -> None:
    """Waits until every future is done, with one wake-up of the event loop for all of them."""
    if not futures:
        return
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    left, lock = len(futures), threading.Lock()

    def one_done(_: Future[Position]) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            loop.call_soon_threadsafe(woken.set)

    for future in futures:
        future.add_done_callback(one_done)
    await woken.wait()
