"""The two phases that are compared: the same traffic with the rollout paused, and with releases swapping under it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from contracts.replica import ChecksumReport
from loadtest.answers import Answer
from loadtest.open_loop import OpenLoopSettings, drive
from slipstream.demo.gateway_client import GatewayClient
from slipstream.demo.traffic import EventStream

_CHECKSUM_SECONDS = 0.5
_TAIL_SECONDS = 6.0
"""Requests go on so long after the last event, so that the last events' freshness is seen too."""


@dataclass(frozen=True)
class Traffic:
    """How much, for how long.

    Attributes:
        request_rate: recommendations a second, Poisson arrivals.
        event_rate: events posted a second.
        quiet_seconds, swap_seconds: rollout paused, rollout running.
    """

    request_rate: float = 55.0
    event_rate: float = 150.0
    quiet_seconds: float = 21.0
    swap_seconds: float = 66.0


@dataclass(frozen=True)
class Phases:
    """What came of them.

    Attributes:
        quiet, swap: answers due while the rollout was paused, and while it ran and events came.
        tail: answers due after the last event.
        swap_from: `time.time()` when the rollout went on.
        checksums: version → the checksums seen of replicas' live tensors while they served it.
    """

    quiet: list[Answer]
    swap: list[Answer]
    tail: list[Answer]
    swap_from: float
    checksums: dict[int, set[str]]

    @property
    def answers(self) -> list[Answer]:
        """All of them."""
        return [*self.quiet, *self.swap, *self.tail]


async def run_phases(gateway: GatewayClient, replica_urls: list[str], stream: EventStream, traffic: Traffic) -> Phases:
    """Pause, load, resume, load, and let the last events arrive."""
    await gateway.pause()
    stop = asyncio.Event()
    posting = asyncio.create_task(stream.run(traffic.event_rate, stop))
    quiet = await _ask(gateway, stream, traffic, traffic.quiet_seconds, seed=1)
    await gateway.resume()
    asked = asyncio.create_task(_ask(gateway, stream, traffic, traffic.swap_seconds, seed=2))
    watching = asyncio.create_task(_watch(gateway, replica_urls, asked))
    swap = await asked
    stop.set()
    await posting
    tail = await _ask(gateway, stream, traffic, _TAIL_SECONDS, seed=3)
    return Phases(quiet, swap, tail, min(answer.due_at for answer in swap), await watching)


async def _ask(
    gateway: GatewayClient, stream: EventStream, traffic: Traffic, seconds: float, seed: int
) -> list[Answer]:
    settings = OpenLoopSettings(url=gateway.url, rate=traffic.request_rate, seconds=seconds, seed=seed)
    return await drive(settings, stream.askers(seed))


async def _watch(
    gateway: GatewayClient, replica_urls: list[str], until: asyncio.Task[list[Answer]]
) -> dict[int, set[str]]:
    """Ask every replica for its live tensors' checksum, again and again, until `until` is done."""
    seen: dict[int, set[str]] = {}
    while not until.done():
        reports: list[ChecksumReport] = await asyncio.gather(*map(gateway.checksum, replica_urls))
        for report in reports:
            seen.setdefault(report.version, set()).add(report.checksum)
        await asyncio.wait([until], timeout=_CHECKSUM_SECONDS)
    return seen
