"""Which version a starting replica must reach, read from the releases topic."""

from __future__ import annotations

import asyncio

import structlog

from contracts import topics
from contracts.release import LiveVersion, ReleaseAnnouncement, live_key
from contracts.wire import UnreadableMessage, decode
from serving.lifecycle import Lifecycle
from streams.catch_up import newest_by_key
from streams.event_log import EventLog, LogUnavailable, Record

_ASK_AGAIN_SECONDS = 0.5
_logger = structlog.get_logger("slipstream.serving")


async def wait_for_version(log: EventLog, model: str, lifecycle: Lifecycle) -> int:
    """The live version of `model`, or the newest announced where none is live yet; waits for the first.

    A log that can't be reached is waited for too; `lifecycle.reason` says what is missing.
    """
    while True:
        try:
            if (version := await asyncio.to_thread(current_version, log, model)) is not None:
                return version
            reason = f"waiting for the first release of {model} on {topics.RELEASES}; `slipstream train` publishes it"
        except LogUnavailable as error:
            reason = f"the log can't be read: {error}"
        if reason != lifecycle.reason:
            lifecycle.reason = reason
            _logger.info("replica_waits", reason=reason)
        await asyncio.sleep(_ASK_AGAIN_SECONDS)


def current_version(log: EventLog, model: str) -> int | None:
    """The live version, else the newest announced, else None. Raises LogUnavailable."""
    newest = newest_by_key(log, topics.RELEASES)
    live = _version(newest.get(live_key(model).encode()), LiveVersion)
    return live if live is not None else _version(newest.get(model.encode()), ReleaseAnnouncement)


def _version(record: Record | None, kind: type[LiveVersion | ReleaseAnnouncement]) -> int | None:
    if record is None or record.value is None:
        return None
    try:
        return decode(record.value, kind).version
    except UnreadableMessage as error:
        _logger.warning("release_record_unreadable", offset=record.offset, problem=str(error))
        return None
