"""`Gateway`: the parts put together, started and stopped in order, and asked how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

import structlog

from catalogue.popularity import Popularity
from contracts.item import Item
from contracts.release import LiveVersion, ReleaseAnnouncement, live_key
from contracts.topics import EVENTS, ITEMS, RELEASES
from contracts.wire import UnreadableMessage, decode, encode
from gateway.history import InProcessHistories
from gateway.intake import Intake
from gateway.interactions import Interactions
from gateway.items import Items
from gateway.log_tail import LogHealth, LogTail
from gateway.metrics import GatewayMetrics
from gateway.pool import ReplicaPool
from gateway.recommend import Recommender
from gateway.rollout import Rollout
from gateway.routing import LeastLoaded, RoutingPolicy
from gateway.settings import GatewaySettings
from gateway.shelf import Shelf
from gateway.swaps import Swaps
from streams.event_log import EventLog, LogUnavailable, Record

_HALF_LIFE_DAYS = 30.0
"""Of the popularity behind the shelf: the best of plain, last 7 days and decayed on MovieLens-100K."""

_WRITE_SECONDS = 5.0
_logger = structlog.get_logger("slipstream.gateway")


class Gateway:
    """One gateway's state. `start` and `stop` belong to one event loop; the apps of `gateway.app` and `gateway.admin`
    are its doors.

    Args:
        log: it need not be reachable; the gateway closes it.
        items: known before the items topic has been read.
        prior: popularity for as long as no event is known.
        run_rollout: exactly one gateway of a deployment does.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        log: EventLog,
        *,
        items: Iterable[Item] = (),
        prior: Popularity | None = None,
        policy: RoutingPolicy | None = None,
        run_rollout: bool = True,
    ) -> None:
        self.settings = settings
        self._log = log
        self._run_rollout = run_rollout
        self._tasks: list[asyncio.Task[None]] = []
        self.started = False
        self.metrics = GatewayMetrics()
        self.health = LogHealth(self.metrics)
        self.items = Items(items)
        shelf = Shelf(Popularity.decayed(_HALF_LIFE_DAYS, self.items.ids()), prior)
        histories = InProcessHistories(settings.history_length, settings.seen_limit, settings.dedupe_window)
        self.histories = histories
        interactions = Interactions(histories, shelf, self.items, self.metrics)
        handlers = {
            ITEMS: interactions.read_items,
            RELEASES: self._read_releases,
            EVENTS: interactions.read_events,
        }
        self.tail = LogTail(log, handlers, self.health)
        self.pool = ReplicaPool(settings, policy or LeastLoaded(), self.metrics)
        swaps = Swaps(self.metrics, settings.swap_timeout_seconds)
        self.rollout = Rollout(self.pool, swaps, self._write_live, self.metrics)
        items_known = partial(self.tail.caught_up, ITEMS)
        self.intake = Intake(log, self.health, interactions, self.metrics, settings, items_known)
        self.recommender = Recommender(histories, shelf, self.pool, self.metrics, exclude_seen=settings.exclude_seen)

    async def start(self) -> None:
        """Reach for the replicas and begin to read the log; returns though neither may be there."""
        self._hear = asyncio.get_running_loop().call_soon_threadsafe
        await self.pool.start()
        self.tail.start()
        if self._run_rollout:
            rollout = self.rollout.run(partial(self.tail.caught_up, RELEASES))
            self._tasks.append(asyncio.create_task(rollout, name="rollout"))
        self.started = True
        _logger.info("gateway_started", replicas=list(self.settings.replicas), rollout=self._run_rollout)

    async def stop(self) -> None:
        """End everything; requests must have been answered by now."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.tail.stop)
        await self.intake.drain()
        await asyncio.to_thread(self._log.close)
        await self.pool.stop()
        _logger.info("gateway_stopped")

    def checks(self) -> dict[str, str]:
        """What is not well, by part; empty when the gateway is ready."""
        problems = {}
        if self.health.problem is not None:
            problems["log"] = self.health.problem
        if not self.tail.alive:
            problems["log"] = "the log's reader has ended: restart the gateway, its log says why"
        if not self.tail.caught_up(EVENTS):
            problems["histories"] = f"rebuilding from the log: {len(self.histories)} users so far"
        if not self.pool.usable:
            problems["replicas"] = "; ".join(replica.problem or "" for replica in self.pool.replicas)
        if any(task.done() for task in self._tasks):
            problems["rollout"] = "the rollout has ended: restart the gateway, its log says why"
        return problems

    def _read_releases(self, records: Sequence[Record]) -> None:
        """The releases topic's handler, in the log's thread; the rollout hears of it in the event loop."""
        for record in records:
            try:
                if (record.key or b"").endswith(live_key("").encode()):
                    self._hear(self.rollout.recorded, decode(record.value or b"", LiveVersion))
                else:
                    announcement = decode(record.value or b"", ReleaseAnnouncement)
                    self._hear(self.rollout.announce, announcement)
            except UnreadableMessage as error:
                self.metrics.unreadable_records.labels(record.topic).inc()
                _logger.warning("unreadable_record", topic=record.topic, offset=record.offset, problem=str(error))

    async def _write_live(self, record: LiveVersion) -> None:
        future = self._log.produce(RELEASES, live_key(record.model).encode(), encode(record))
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise LogUnavailable(f"the live record was not acknowledged within {_WRITE_SECONDS} s") from error
