"""The demo's traffic: the stream's events posted at a steady rate, and recommendations asked open-loop beside them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import msgspec

from contracts.event import Event
from contracts.recommendation import MAX_EVENTS, EventReceipt
from contracts.wire import decode

_TICK_SECONDS = 0.1
_LOOK_AHEAD = 64
"""Requests come from users whose next event is among so many: they ask, then click."""


class EventsRefused(Exception):
    """The gateway did not take events of the stream; the text is its answer."""


@dataclass
class EventStream:
    """Posts events in order, batch after batch, and remembers when each was acknowledged.

    Attributes:
        url: the gateway's base URL.
        events: what is posted, in this order.
        posted: how many of them have been acknowledged.
        acknowledged_at: event id → `time.time()` at the 202.
    """

    url: str
    events: Sequence[Event]
    posted: int = 0
    acknowledged_at: dict[str, float] = field(default_factory=dict)

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Post `rate` events a second until `stop` is set or none is left. What is late catches up.

        Raises:
            EventsRefused: anything but a 202 that took every event.
        """
        start, first = time.monotonic(), self.posted
        async with aiohttp.ClientSession() as session:
            while not stop.is_set() and self.posted < len(self.events):
                due = first + int((time.monotonic() - start) * rate)
                if batch := self.events[self.posted : min(due, self.posted + MAX_EVENTS)]:
                    await self.post(session, batch)
                await asyncio.sleep(_TICK_SECONDS)

    async def post(self, session: aiohttp.ClientSession, batch: Sequence[Event]) -> None:
        """Post the next events; returns at their 202. Raises EventsRefused."""
        body = msgspec.json.encode({"events": batch})
        async with session.post(
            f"{self.url}/v1/events", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            content = await response.read()
        now = time.time()
        if response.status != 202:
            raise EventsRefused(f"POST /v1/events: {response.status} {content.decode(errors='replace')[:300]}")
        receipt = decode(content, EventReceipt)
        if receipt.accepted != len(batch):
            raise EventsRefused(f"{len(receipt.rejected)} of {len(batch)} events refused: {receipt.rejected[:1]}")
        self.acknowledged_at.update((event.event_id, now) for event in batch)
        self.posted += len(batch)

    def askers(self, seed: int) -> Iterator[str]:
        """For each request a user whose next event is about to come; after the stream's end, its last users."""
        rng = random.Random(seed)
        while True:
            ahead = min(self.posted + rng.randrange(_LOOK_AHEAD), len(self.events) - 1)
            yield self.events[ahead].user_id
