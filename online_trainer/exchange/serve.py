"""The owner's loop: requests from a socket, turns of the owner, releases in between."""

from __future__ import annotations

import time
from typing import Any

import structlog
import zmq

from online_trainer.exchange.start import OwnerProcess
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.patience import Patience

_POLL_MS = 50
_TICK_SECONDS = 0.1
_BATCH = 64
"""Requests taken between two synced writes."""
_GOODBYE_SECONDS = 5.0
_LAST_RELEASE_SECONDS = 30.0
_log = structlog.get_logger(__name__)


def serve(process: OwnerProcess, socket: zmq.Socket[Any], patience: Patience) -> None:
    """Until told to stop, or until everything is trained with `stop_at_end`; then commit and publish.

    Raises:
        WriterReplaced: another owner publishes this model now. StartOver: start this owner anew.
    """
    reach(FaultPoint.OWNER_LISTENING)
    owner, releaser = process.owner, process.releaser
    ticked = 0.0
    while not (patience.stopping or owner.finished):
        _turn(process, socket)
        if (now := time.monotonic()) - ticked >= _TICK_SECONDS:
            ticked = now
            owner.tick(now)
        releaser.turn()
    reach(FaultPoint.STOP_REQUESTED)
    _stop(process, socket)
    reach(FaultPoint.STOP_COMMITTED)


def _stop(process: OwnerProcess, socket: zmq.Socket[Any]) -> None:
    """Wait for the workers to leave, commit, publish, then let the other owners go."""
    owner, releaser = process.owner, process.releaser
    owner.leaving = True
    _log.info("stopping", members=sorted(owner.sequencer.members))
    deadline = time.monotonic() + _GOODBYE_SECONDS
    while owner.sequencer.members and time.monotonic() < deadline:
        _turn(process, socket)
    if owner.sequencer.members:
        _log.warning("stopped_without", members=sorted(owner.sequencer.members))
    releaser.hurry()
    deadline = time.monotonic() + _LAST_RELEASE_SECONDS
    # What a store out of reach does not take is left to the next start.
    while not (releaser.finished or releaser.waits) and time.monotonic() < deadline:
        releaser.turn(now=not releaser.busy)
        _turn(process, socket)
    owner.stopping = True
    owner.settle()
    _log.info("stopped", order=owner.replica.index, version=releaser.published)


def _turn(process: OwnerProcess, socket: zmq.Socket[Any]) -> None:
    if socket.poll(_POLL_MS):
        for _ in range(_BATCH):
            try:
                sender, *received = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            process.owner.receive(sender, received)
    process.owner.settle()
