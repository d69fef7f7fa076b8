"""The moments at which a `kill -9` must change nothing, each with a name, and the means to be killed there.

`SLIPSTREAM_FAULT_POINT=commit.renamed:3` kills this process (SIGKILL: no handler, no flush) the third time it gets
there. Tests draw points from `FaultPoint`; in production the variable is unset and `reach` compares two names.
"""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from functools import cache

VARIABLE = "SLIPSTREAM_FAULT_POINT"


class FaultPoint(StrEnum):
    """In the order in which a trainer passes them."""

    START_JOURNAL_BEGUN = "start.journal-begun"
    START_EPOCH_ACQUIRED = "start.epoch-acquired"
    START_WARMED_UP = "start.warmed-up"
    START_RESTORED = "start.restored"
    START_ANNOUNCED = "start.announced"
    PLAN_CHOSEN = "plan.chosen"
    PLAN_WRITTEN = "plan.written"
    PLAN_JOURNALLED = "plan.journalled"
    BATCH_COLLECTED = "batch.collected"
    BATCH_DEAD_LETTER_SENT = "batch.dead-letter-sent"
    BATCH_SCORED = "batch.scored"
    BATCH_GRADIENT_READY = "batch.gradient-ready"
    BATCH_STEPPED = "batch.stepped"
    BATCH_LEDGERED = "batch.ledgered"
    COMMIT_LEDGER_WRITTEN = "commit.ledger-written"
    COMMIT_LEDGER_SYNCED = "commit.ledger-synced"
    COMMIT_TENSORS_WRITTEN = "commit.tensors-written"
    COMMIT_STATE_WRITTEN = "commit.state-written"
    COMMIT_RENAMED = "commit.renamed"
    COMMIT_OLD_REMOVED = "commit.old-removed"
    PUBLISH_STORED = "publish.stored"
    PUBLISH_ANNOUNCED = "publish.announced"
    PUBLISH_OLD_REMOVED = "publish.old-removed"
    STOP_REQUESTED = "stop.requested"
    STOP_COMMITTED = "stop.committed"


@cache
def _target() -> tuple[FaultPoint, int] | None:
    """The armed point and how often it is passed before. Raises ValueError for a name that is none."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    name, _, nth = text.partition(":")
    try:
        return FaultPoint(name), int(nth or 1)
    except ValueError as error:
        raise ValueError(f"{VARIABLE}={text}: write NAME or NAME:NTH with one of {', '.join(FaultPoint)}") from error


_passed = 0


def reach(point: FaultPoint) -> None:
    """Die here, if this is the armed point and its time has come."""
    global _passed
    target = _target()
    if target is None or target[0] is not point:
        return
    _passed += 1
    if _passed == target[1]:
        os.kill(os.getpid(), signal.SIGKILL)
