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
    """In the order in which a trainer passes them; then those of a synchronous group's rank, of an owner, and of a
    worker of several."""

    START_JOURNAL_BEGUN = "start.journal-begun"
    START_EPOCH_ACQUIRED = "start.epoch-acquired"
    START_WARMED_UP = "start.warmed-up"
    START_RESTORED = "start.restored"
    START_ANNOUNCED = "start.announced"
    PLAN_CHOSEN = "plan.chosen"
    PLAN_WRITTEN = "plan.written"
    PLAN_JOURNALLED = "plan.journalled"
    ITEMS_CHOSEN = "items.chosen"
    ITEMS_WRITTEN = "items.written"
    ITEMS_JOURNALLED = "items.journalled"
    ITEMS_ADDED = "items.added"
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
    ROUND_JOINED = "round.joined"
    ROUND_RESTORED = "round.restored"
    ROUND_AGREED = "round.agreed"
    ROUND_IDS_TOLD = "round.ids-told"
    ROUND_EXCHANGED = "round.exchanged"
    ROUND_VOTED = "round.voted"
    ROUND_COMMITTED = "round.committed"
    OWNER_REPLAYED = "owner.replayed"
    OWNER_LISTENING = "owner.listening"
    OWNER_JOINED = "owner.joined"
    OWNER_WELCOMED = "owner.welcomed"
    OWNER_WEIGHTS_SENT = "owner.weights-sent"
    OWNER_HANDED_OVER = "owner.handed-over"
    OWNER_PUSH_RECEIVED = "owner.push-received"
    OWNER_PUSH_CHECKED = "owner.push-checked"
    OWNER_ORDERED = "owner.ordered"
    ORDER_WRITTEN = "order.written"
    ORDER_SYNCED = "order.synced"
    OWNER_APPLIED = "owner.applied"
    OWNER_ANSWERED = "owner.answered"
    OWNER_MOVED = "owner.moved"
    OWNER_LEFT = "owner.left"
    OWNER_COMMITTED = "owner.committed"
    OWNER_ROTATED = "owner.rotated"
    SHARD_PART_RECEIVED = "shard.part-received"
    SHARD_PART_WRITTEN = "shard.part-written"
    SHARD_PART_SYNCED = "shard.part-synced"
    SHARD_PART_ANSWERED = "shard.part-answered"
    SHARD_APPLIED = "shard.applied"
    SHARD_CUT_WRITTEN = "shard.cut-written"
    SHARD_CUT_SENT = "shard.cut-sent"
    WORKER_JOINED = "worker.joined"
    WORKER_WEIGHTS_TAKEN = "worker.weights-taken"
    WORKER_ADOPTED = "worker.adopted"
    WORKER_ITEMS_KNOWN = "worker.items-known"
    WORKER_ASSIGNED = "worker.assigned"
    WORKER_PLANNED = "worker.planned"
    WORKER_COMPUTED = "worker.computed"
    WORKER_ENCODED = "worker.encoded"
    WORKER_PARTS_STORED = "worker.parts-stored"
    WORKER_PUSHED = "worker.pushed"
    WORKER_ANSWERED = "worker.answered"
    WORKER_APPLIED = "worker.applied"
    WORKER_UNDONE = "worker.undone"
    WORKER_LEFT = "worker.left"


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
