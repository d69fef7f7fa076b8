"""Real users to replay: who they are and what they did, in order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from catalogue.datasets import load
from catalogue.replay import Timeline, split, timeline
from contracts.event import Event

PAST = 0.8
"""The part of the timeline that lies in the log before anything is streamed."""


def replayed(name: str, data: Path | None, seed: int = 0) -> Timeline:
    """The data set's timeline. Raises `catalogue.datasets.DataError`."""
    return timeline(load(name, data), seed)


def endless_users(line: Timeline, seed: int = 0) -> Iterator[str]:
    """Users with a history in the past part of `line`, drawn again and again, each as often as they were active."""
    past, _ = split(line, PAST)
    rng = random.Random(seed)
    while True:
        yield line.dataset.users[past.user[rng.randrange(len(past))]]


def sequences(line: Timeline, min_events: int) -> list[list[Event]]:
    """The events of every user that has at least `min_events` of them, in the order in which they happened."""
    order = np.argsort(line.user, kind="stable")
    starts = np.flatnonzero(np.diff(line.user[order], prepend=-1))
    return [
        [line.event(int(index)) for index in block] for block in np.split(order, starts[1:]) if len(block) >= min_events
    ]
