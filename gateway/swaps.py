"""Bringing replicas to a version: stage on half of them at once, commit on one after another, remember who refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import NamedTuple

import structlog

from gateway.metrics import GatewayMetrics
from gateway.replica_client import Replica, ReplicaFailed, ReplicaRefused

_RETRY_SECONDS = 10.0
_logger = structlog.get_logger("slipstream.gateway.swaps")


class _Refusal(NamedTuple):
    version: int
    retry_at: float


class Swaps:
    """Swaps on single replicas, measured and logged. A failed one leaves the replica at the version it has.

    Args:
        timeout_seconds: for one replica to stage, to commit or to roll back.
    """

    def __init__(self, metrics: GatewayMetrics, timeout_seconds: float) -> None:
        self._metrics = metrics
        self._timeout = timeout_seconds
        self._refusals: dict[str, _Refusal] = {}

    def may_try(self, replica: Replica, version: int) -> bool:
        """False for some seconds after `replica` has said no to `version`."""
        refusal = self._refusals.get(replica.name)
        return refusal is None or refusal.version != version or time.monotonic() >= refusal.retry_at

    async def bring(self, replicas: Sequence[Replica], version: int) -> list[Replica]:
        """Have `replicas` serve `version`; returns those that do. Serving goes on everywhere meanwhile.

        Staging takes time from a replica's requests, so never more than half of them stage at once: the router has
        somewhere to go.
        """
        places = asyncio.Semaphore(max(1, len(replicas) // 2))

        async def stage(replica: Replica) -> bool:
            async with places:
                return await self._stage(replica, version)

        staged = await asyncio.gather(*map(stage, replicas))
        swapped = []
        for replica, ready in zip(replicas, staged, strict=True):
            if ready and await self._commit(replica, version):
                swapped.append(replica)
        return swapped

    async def roll_back(self, replica: Replica, version: int) -> bool:
        """Have `replica` serve `version`, from its own memory where that is what it served before."""
        if replica.version == version:
            return True
        if await self._out_of_rotation("roll_back", replica, version, replica.roll_back(self._timeout)) and (
            replica.version == version
        ):
            return True
        return bool(await self.bring([replica], version))

    async def _stage(self, replica: Replica, version: int) -> bool:
        return await self._attempt("stage", replica, version, replica.stage(version, self._timeout))

    async def _commit(self, replica: Replica, version: int) -> bool:
        return await self._out_of_rotation("commit", replica, version, replica.commit(version, self._timeout))

    async def _out_of_rotation(self, phase: str, replica: Replica, version: int, call: Awaitable[object]) -> bool:
        replica.swapping = True
        try:
            return await self._attempt(phase, replica, version, call)
        finally:
            replica.swapping = False

    async def _attempt(self, phase: str, replica: Replica, version: int, call: Awaitable[object]) -> bool:
        started, outcome, problem = time.perf_counter(), "done", ""
        try:
            await call
        except (ReplicaRefused, ReplicaFailed) as error:
            outcome = "refused" if isinstance(error, ReplicaRefused) else "failed"
            problem = str(error)
            self._refusals[replica.name] = _Refusal(version, time.monotonic() + _RETRY_SECONDS)
        seconds = time.perf_counter() - started
        self._metrics.swap_seconds.labels(phase, outcome).observe(seconds)
        log = _logger.warning if problem else _logger.info
        log(
            f"replica_{phase}", replica=replica.name, version=version, outcome=outcome, seconds=seconds, problem=problem
        )
        return not problem
