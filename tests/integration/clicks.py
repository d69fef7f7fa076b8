"""The trainers' stream of made-up clicks, and waiting for what it leads to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from contracts import topics, wire
from contracts.event import Event
from streams.event_log import EventLog

EVENTS = 240
UNKNOWN = ("i38", "i39")
"""Items of the stream that the tests' models, with 38 items, do not know."""


def event(number: int) -> Event:
    """The stream's event of that number: 23 users, 40 items, two events an instant."""
    return Event(
        event_id=f"e{number}",
        event_type="click",
        user_id=f"u{number * 7 % 23}",
        item_id=f"i{number * 11 % 40}",
        timestamp=1000.0 + number // 2,
    )


def send(log: EventLog, events: Iterable[Event]) -> None:
    """Produce them; returns once all are acknowledged."""
    for future in [log.produce(topics.EVENTS, e.user_id.encode(), wire.encode(e)) for e in events]:
        future.result(90)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Return once `condition` holds; fail, saying `what` was waited for, when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
