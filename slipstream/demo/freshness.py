"""Freshness: from an event's 202 to the first model answer computed by weights that cover it, at the slowest replica.

Measured from outside: what the client saw (when it got the 202, when it got each answer and the version the answer
names), where the log put the event, and what each release's manifest says it covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.release import ReleaseManifest

Floats = npt.NDArray[np.float64]


class Acknowledged(NamedTuple):
    """An event the gateway said 202 to: where the log put it, and the client's clock at the 202, seconds."""

    partition: int
    offset: int
    at: float


class Served(NamedTuple):
    """A model answer: from which replica, by which version, and the client's clock when it came, seconds."""

    replica: str
    version: int
    at: float


def freshness_seconds(
    events: Iterable[Acknowledged], answers: Iterable[Served], manifests: Mapping[int, ReleaseManifest]
) -> Floats:
    """Seconds for each event, in order; `inf` where some replica never gave an answer that covers it. [N]

    An answer that came before the 202 reached the client counts as 0 seconds.
    """
    by_replica: dict[str, list[Served]] = {}
    for answer in answers:
        by_replica.setdefault(answer.replica, []).append(answer)
    acknowledged = list(events)
    slowest = np.zeros(len(acknowledged)) if by_replica else np.full(len(acknowledged), np.inf)
    for served in by_replica.values():
        slowest = np.maximum(slowest, _seconds_at_replica(acknowledged, served, manifests))
    return slowest


def _seconds_at_replica(
    events: list[Acknowledged], answers: list[Served], manifests: Mapping[int, ReleaseManifest]
) -> Floats:
    answers = sorted(answers, key=lambda answer: answer.at)
    times = np.array([answer.at for answer in answers])
    seconds = np.full(len(events), np.inf)
    for partition in {event.partition for event in events}:
        index = np.array([i for i, event in enumerate(events) if event.partition == partition])
        offsets = np.array([events[i].offset for i in index])
        acked = np.array([events[i].at for i in index])
        covered = np.maximum.accumulate([manifests[answer.version].offsets.get(partition, 0) for answer in answers])
        first = np.searchsorted(covered, offsets, side="right")  # covered > offset
        reached = first < len(answers)
        seconds[index[reached]] = np.maximum(0.0, times[first[reached]] - acked[reached])
    return seconds
