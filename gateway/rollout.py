"""The rollout: every announced release onto every replica, one after another, and a record of what is live.

It is level-triggered. Each round compares what replicas serve with what they should serve and brings those that differ
there: a new release, a replica that was away and a restart of the gateway are one case. When releases come faster
than swaps, a round takes the newest, and those between are never staged.

Exactly one gateway of a deployment runs the rollout.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from contracts.release import LiveVersion, ReleaseAnnouncement
from gateway.metrics import GatewayMetrics
from gateway.pool import ReplicaPool, first_change
from gateway.release_states import ReleaseBook, ReleaseState
from gateway.replica_client import Replica
from gateway.swaps import Swaps
from streams.event_log import LogUnavailable

WriteLive = Callable[[LiveVersion], Awaitable[None]]
"""Appends the live record to the log; raises LogUnavailable."""

_ROUND_SECONDS = 1.0
_logger = structlog.get_logger("slipstream.gateway.rollout")


class RolloutRefused(Exception):
    """An operator's wish that can't be met; the text says why. Replicas serve what they served."""


class Rollout:
    """Decides which version is served, and makes it so. For one event loop.

    Args:
        write_live: appends the live record.
    """

    def __init__(self, pool: ReplicaPool, swaps: Swaps, write_live: WriteLive, metrics: GatewayMetrics) -> None:
        self._pool = pool
        self._swaps = swaps
        self._write_live = write_live
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._announced: dict[str, ReleaseAnnouncement] = {}
        self._live: dict[str, LiveVersion] = {}
        self._unwritten: LiveVersion | None = None
        self._paused = False
        self.book = ReleaseBook()

    @property
    def model(self) -> str | None:
        """The model that the replicas serve; None until one has been reached."""
        return next((replica.status.model for replica in self._pool.replicas if replica.status), None)

    @property
    def newest(self) -> int | None:
        """The version announced last."""
        announced = self._announced.get(self.model or "")
        return announced.version if announced else None

    @property
    def live(self) -> LiveVersion | None:
        """What the live record says, or will say once the log takes it."""
        return self._live.get(self.model or "")

    @property
    def paused(self) -> bool:
        """Whether new releases wait."""
        return self._paused

    @property
    def target(self) -> int | None:
        """What every replica should serve now; None when that is not known."""
        newest = self.newest
        if self._paused or (newest is not None and self.book.state(newest) is ReleaseState.ROLLED_BACK):
            return self.live.version if self.live else None
        return newest

    def announce(self, announcement: ReleaseAnnouncement) -> None:
        """A release was published, or is read again at the start."""
        self._announced[announcement.model] = announcement
        if announcement.model == self.model:
            self._pool.changed.set()

    def recorded(self, record: LiveVersion) -> None:
        """A live record was read from the log; this gateway's own ones come by here too."""
        known = self._live.get(record.model)
        if known is None or record.committed_at > known.committed_at:
            self._live[record.model] = record
            self._pause(record.paused)

    async def run(self, caught_up: Callable[[], bool]) -> None:
        """Rounds without end, from when the releases topic has been read."""
        while not caught_up() or self.model is None:
            await first_change(self._pool, 0.1)
        while True:
            try:
                async with self._turn:
                    await self.round()
            except LogUnavailable as error:
                _logger.warning("live_record_not_written", problem=str(error))
            await first_change(self._pool, _ROUND_SECONDS)

    async def round(self) -> None:
        """Bring every replica that differs to the target, then record it. Raises LogUnavailable: not recorded yet."""
        self._note_releases()
        target = self.target
        if target is not None:
            differ = [r for r in self._pool.usable if r.version != target and self._swaps.may_try(r, target)]
            await self._bring(differ, target)
            if self._serving(target) and (self.live is None or self.live.version != target):
                self._make_live(target)
        await self._write()

    async def pause(self) -> None:
        """New releases wait from now on, over a restart of the gateway too."""
        await self._set_paused(True)

    async def resume(self) -> None:
        """Go to the newest release, and on from there."""
        await self._set_paused(False)

    async def promote(self, version: int) -> list[str]:
        """Serve `version` everywhere; any other than the newest also pauses. Returns the replicas that serve it.

        Raises:
            RolloutRefused: no replica would take it.
        """
        async with self._turn:
            self._note_releases()
            self.book.add(version)
            if version != self.newest:
                self._pause(True)
            await self._bring([replica for replica in self._pool.usable if replica.version != version], version)
            serving = self._serving(version)
            if not serving:
                raise RolloutRefused(f"no replica could be brought to version {version}: is it in the release store?")
            self._make_live(version)
            await self._write_if_possible()
            return serving

    async def roll_back(self) -> list[str]:
        """Serve the version before the live one, and pause. Returns the replicas that do.

        Raises:
            RolloutRefused: there is no version before it, or no replica could go back.
        """
        async with self._turn:
            live = self.live
            if live is None or live.previous_version is None:
                raise RolloutRefused("there is no earlier version to go back to: promote one by its number instead")
            self._note_releases()
            self._pause(True)
            version = live.previous_version
            for replica in self._pool.usable:
                await self._swaps.roll_back(replica, version)
            serving = self._serving(version)
            if not serving:
                raise RolloutRefused(f"no replica could go back to version {version}; the rollout is paused")
            self._make_live(version, rolled_back=True)
            await self._write_if_possible()
            return serving

    async def _bring(self, replicas: Sequence[Replica], version: int) -> None:
        if not replicas:
            return
        self.book.add(version)
        if await self._swaps.bring(replicas, version) and self.book.state(version) is not ReleaseState.LIVE:
            self.book.move(version, ReleaseState.STAGED)

    def _serving(self, version: int) -> list[str]:
        return [replica.name for replica in self._pool.usable if replica.version == version]

    def _note_releases(self) -> None:
        if self.live is not None and self.book.live is None:
            self.book.add(self.live.version, ReleaseState.LIVE)
            self._metrics.live_version.set(self.live.version)
        if self.newest is not None:
            self.book.add(self.newest)
            self.book.supersede(self.newest)

    def _make_live(self, version: int, *, rolled_back: bool = False) -> None:
        self.book.add(version, ReleaseState.STAGED)
        if self.book.state(version) is ReleaseState.PUBLISHED:  # the replicas came with it
            self.book.move(version, ReleaseState.STAGED)
        self.book.make_live(version, rolled_back=rolled_back)
        previous = self.live
        if previous is not None and previous.version == version:
            before = previous.previous_version
        else:
            before = previous.version if previous and not rolled_back else None
        self._record(
            LiveVersion(
                model=self.model or "",
                version=version,
                committed_at=time.time(),
                previous_version=before,
                paused=self._paused,
            )
        )
        _logger.info("release_live", version=version, rolled_back=rolled_back, paused=self._paused)

    def _record(self, record: LiveVersion) -> None:
        self._live[record.model] = self._unwritten = record
        self._metrics.live_version.set(record.version)

    async def _write(self) -> None:
        record = self._unwritten
        if record is not None:
            await self._write_live(record)
            if self._unwritten is record:
                self._unwritten = None

    async def _write_if_possible(self) -> None:
        try:
            await self._write()
        except LogUnavailable as error:  # the next round writes it
            _logger.warning("live_record_not_written", problem=str(error))

    async def _set_paused(self, paused: bool) -> None:
        self._pause(paused)
        async with self._turn:  # a swap that is going on ends first
            if self.live is not None and self.live.paused != paused:
                self._record(msgspec.structs.replace(self.live, paused=paused, committed_at=time.time()))
                await self._write_if_possible()
        self._pool.changed.set()

    def _pause(self, paused: bool) -> None:
        self._paused = paused
        self._metrics.rollout_paused.set(paused)
