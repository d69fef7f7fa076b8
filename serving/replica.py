"""`Replica`: an engine, its releases and its state. What HTTP carries, without HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import structlog

from contracts.replica import (
    ChecksumReport,
    RankAnswer,
    RankRequest,
    ReplicaState,
    ReplicaStatus,
    SwapReport,
)
from releases.bundle import ReleaseCorrupt
from releases.store import ReleaseMissing, ReleaseStore
from releases.store_watch import StoreWatch
from releases.unavailable import StoreUnavailable
from serving.engine import Engine, EngineDead, SwapRefused
from serving.lifecycle import Lifecycle
from serving.metrics import ReplicaMetrics

T = TypeVar("T")
UNRELEASED = 0
"""The version an engine is loaded with: the model folder's weights, which are no release until one is committed."""
_FIND_AGAIN_SECONDS = 1.0
_logger = structlog.get_logger("slipstream.serving")

FindVersion = Callable[[], Awaitable[int]]
"""Waits for, and returns, the version a starting replica must reach."""


class NotServing(Exception):
    """The replica takes no recommendations now; the text says why."""


class Overloaded(Exception):
    """More recommendations are in the replica than it may hold; try another, or later."""


class Replica:
    """One replica of one model. For one event loop.

    Args:
        name: what it calls itself.
        engine_name: `vllm` or `torch`, for the status.
        max_in_flight: recommendations it holds at once, those held back by a swap included.
    """

    def __init__(
        self, name: str, model: str, engine: Engine, engine_name: str, store: ReleaseStore, max_in_flight: int = 512
    ) -> None:
        self.name, self.model = name, model
        self.engine, self.engine_name = engine, engine_name
        self.lifecycle = Lifecycle()
        self.metrics = ReplicaMetrics()
        self.metrics.watch(lambda: self.in_flight, lambda: float(self.lifecycle.serving))
        self.in_flight = 0
        self._store = store
        self._store_watch = StoreWatch(
            "what is served is served on; a start waits", self.metrics.store_up.set, self.metrics.store_unavailable.inc
        )
        self._max_in_flight = max_in_flight
        self._staging = asyncio.Lock()
        self._swapping = asyncio.Lock()
        self._idle = asyncio.Event()
        self._phases: set[ReplicaState] = set()
        self._staged_version: int | None = None
        self._can_roll_back = False

    async def bring_up(self, find_version: FindVersion) -> None:
        """Reach the live version and become ready. The engine has been started.

        Raises:
            EngineDead. Whatever else hinders it (no release yet, one that retention has just removed, a store out
                of reach) is waited out.
        """
        while True:
            version = await find_version()
            try:
                await self._take_in(version)
                await self.engine.commit(version)
                break
            except StoreUnavailable as error:
                self.lifecycle.reason = str(error)
                await asyncio.sleep(self._store_watch.seconds_left)
            except (ReleaseMissing, ReleaseCorrupt, SwapRefused) as error:
                self.lifecycle.reason = str(error)
                _logger.warning("release_not_usable", version=version, problem=str(error))
                await asyncio.sleep(_FIND_AGAIN_SECONDS)
        self._staged_version = None
        self.metrics.model_version.set(version)
        if self.lifecycle.state is ReplicaState.STARTING:
            self.lifecycle.enter(ReplicaState.READY)
        _logger.info("replica_ready", replica=self.name, version=version)

    async def rank(self, request: RankRequest) -> RankAnswer:
        """Raises NotServing, Overloaded or EngineDead."""
        self._refuse_unless_serving()
        if self.in_flight >= self._max_in_flight:
            self.metrics.rank_total.labels("overloaded").inc()
            raise Overloaded(f"{self.in_flight} recommendations are in this replica, the most it takes")
        self.in_flight += 1
        self._idle.clear()
        try:
            answer = await self._engine_call(self.engine.recommend(request))
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()
        self.metrics.rank_total.labels("answered").inc()
        self.metrics.inference_seconds.observe(answer.engine_ms / 1e3)
        return answer

    async def stage(self, version: int) -> ReplicaStatus:
        """Read, verify and hold `version` ready, while serving goes on.

        Raises:
            ReleaseMissing, ReleaseCorrupt, SwapRefused: the release is not usable. StoreUnavailable: try again later.
            NotServing, EngineDead.
        """
        self._refuse_unless_serving()
        async with self._staging:
            with self._phase(ReplicaState.PREPARING):
                await self._engine_call(self._take_in(version))
        return self.status()

    async def commit(self, version: int) -> SwapReport:
        """Serve the staged `version`. Raises SwapRefused, NotServing, EngineDead."""
        report = await self._swap(lambda: self.engine.commit(version))
        self._can_roll_back = True
        return report

    async def roll_back(self) -> SwapReport:
        """Serve the version before the last commit again. Raises as `commit`."""
        self._refuse_unless_serving()
        if not self._can_roll_back:
            raise SwapRefused("there is no earlier release to roll back to; stage and commit one instead")
        report = await self._swap(self.engine.roll_back)
        self._can_roll_back = False
        return report

    async def checksum(self) -> ChecksumReport:
        """Of the live weights. Raises NotServing, EngineDead."""
        self._refuse_unless_serving()
        version, digest = await self._engine_call(self.engine.checksum())
        return ChecksumReport(version=version, checksum=digest)

    def status(self) -> ReplicaStatus:
        """What this replica says of itself."""
        started = self.lifecycle.state is not ReplicaState.STARTING
        return ReplicaStatus(
            replica=self.name,
            state=self.lifecycle.state,
            model=self.model,
            version=(self.engine.version or None) if started else None,
            staged_version=self._staged_version,
            in_flight=self.in_flight,
            engine=self.engine_name,
            reason=self.lifecycle.reason,
        )

    async def drain(self, patience_seconds: float) -> None:
        """Take nothing new; returns when the last recommendation is answered, or the patience ends."""
        if self.lifecycle.state not in (ReplicaState.FAILED, ReplicaState.DRAINING):
            self.lifecycle.enter(ReplicaState.DRAINING, "shutting down")
        if self.in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience_seconds)

    async def _take_in(self, version: int) -> None:
        started = time.perf_counter()
        self._staged_version = None
        with self._store_watch.call():
            bundle = await asyncio.to_thread(self._store.read, self.model, version)
        read = time.perf_counter()
        await self.engine.stage(bundle)
        self._staged_version = version
        self.metrics.swap_seconds.labels("read").observe(read - started)
        self.metrics.swap_seconds.labels("stage").observe(time.perf_counter() - read)

    async def _swap(self, swap: Callable[[], Awaitable[SwapReport]]) -> SwapReport:
        self._refuse_unless_serving()
        try:
            async with self._swapping:
                with self._phase(ReplicaState.COMMITTING):
                    report = await self._engine_call(swap())
        except SwapRefused:
            self.metrics.swaps_total.labels("refused").inc()
            raise
        if report.version == self._staged_version:
            self._staged_version = None
        self._measure(report)
        return report

    def _measure(self, report: SwapReport) -> None:
        self.metrics.swaps_total.labels("done").inc()
        self.metrics.swap_seconds.labels("drain").observe(report.drain_ms / 1e3)
        self.metrics.swap_seconds.labels("apply").observe(report.apply_ms / 1e3)
        self.metrics.model_version.set(report.version)
        _logger.info(
            "swapped",
            replica=self.name,
            version=report.version,
            previous=report.previous_version,
            drain_ms=round(report.drain_ms, 2),
            apply_ms=round(report.apply_ms, 2),
            checksum=report.checksum[:16],
        )

    async def _engine_call(self, call: Awaitable[T]) -> T:
        """Raises EngineDead, after which the replica has failed."""
        try:
            return await call
        except EngineDead as error:
            self.lifecycle.fail(str(error))
            raise

    @contextmanager
    def _phase(self, state: ReplicaState) -> Iterator[None]:
        self._phases.add(state)
        self._show_phase()
        try:
            yield
        finally:
            self._phases.discard(state)
            self._show_phase()

    def _show_phase(self) -> None:
        """A replica that drains or has failed stays so, whatever ends meanwhile."""
        order = (ReplicaState.COMMITTING, ReplicaState.PREPARING)
        state = next((phase for phase in order if phase in self._phases), ReplicaState.READY)
        if self.lifecycle.serving and self.lifecycle.state is not state:
            self.lifecycle.enter(state)

    def _refuse_unless_serving(self) -> None:
        if not self.lifecycle.serving:
            self.metrics.rank_total.labels("not_serving").inc()
            raise NotServing(f"this replica is {self.lifecycle.state}: {self.lifecycle.reason}")
