"""Publishing: a committed checkpoint becomes a release in the store and an announcement on Kafka."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
import structlog
from torch import Tensor

from contracts import topics, wire
from contracts.release import (
    AddedItems,
    LiveVersion,
    ReleaseAnnouncement,
    ReleaseKind,
    ReleaseManifest,
    live_key,
)
from online_trainer.checkpoint import CheckpointState
from online_trainer.fault_points import FaultPoint, reach
from online_trainer.tensors import to_raw
from releases.bundle import RawTensor
from releases.delta import POSITIONS, make_delta, num_bytes
from releases.store import ReleaseStore, WriterReplaced
from streams.catch_up import newest_by_key
from streams.event_log import EventLog, LogUnavailable, WriterFenced

_RETENTION_SLACK = 10
_RECLAIM_SECONDS = 30.0
_log = structlog.get_logger(__name__)


class Publisher:
    """The one writer of a model's releases.

    A trainer is replaced by whoever acquires a later epoch in the store. The store refuses the old one's releases, and
    the transactional id (one a model) its announcements. Kafka's client may also lose the id when a broker fails; the
    store's epoch then tells the two apart, and a trainer that is still the writer claims the id anew.

    Retention: the newest `keep_releases` (up to ten more between two removals), the live version and the one that a
    roll-back returns to.

    Args:
        connect: opens a connection of the publisher's own for announcements.
        anchor_every: each so many releases stand alone; those between are deltas on the one before, where that is
            smaller. The first after a start stands alone. 1: all do.
        item_ids: the model folder's, in slot order; what was added since stands behind them.
    """

    def __init__(
        self,
        model: str,
        store: ReleaseStore,
        connect: Callable[[], EventLog],
        keep_releases: int,
        anchor_every: int = 1,
        item_ids: Sequence[str] = (),
    ) -> None:
        self.density = 1.0
        """Share of the elements that the last release changed; 1 where that was not looked at."""
        self._anchor_every = anchor_every
        self._since_anchor = 0
        self._base: tuple[int, dict[str, RawTensor]] | None = None
        self._model = model
        self._store = store
        self._connect = connect
        self._log = connect()
        self._keep_releases = keep_releases
        self._item_ids = item_ids
        self._epoch = 0
        self._next_reclaim = 0.0

    def take_over(self) -> int:
        """Become the model's writer. Returns `newest`."""
        self._epoch = self._store.acquire_epoch(self._model)
        reach(FaultPoint.START_EPOCH_ACQUIRED)
        return self.newest()

    def newest(self) -> int:
        """The newest version in the store, 0 when there is none."""
        return max(self._store.versions(self._model), default=0)

    def has_published(self, state: CheckpointState, weights: Mapping[str, Tensor]) -> bool:
        """Whether the store's release of `state.version` holds these very weights."""
        if state.version not in self._store.versions(self._model):
            return False
        entries = {name: raw.entry() for name, raw in to_raw(weights).items()}
        manifest = self._store.manifest(self._model, state.version)
        return manifest.tensors == entries and manifest.added_items == self._added_items(state)

    def publish(self, state: CheckpointState, weights: Mapping[str, Tensor]) -> int:
        """Write the release and announce it; returns its tensor bytes.

        Raises:
            WriterReplaced: another trainer is the writer now. VersionTaken: see `ReleaseStore.publish`. OSError: the
                store can't be written. LogUnavailable: it is in the store and not announced.
        """
        tensors = to_raw(weights)
        manifest, content = self._manifest(state, tensors), tensors
        if self._base is not None and (delta := self._delta(self._base[1], tensors)) is not None:
            content = delta
            manifest = msgspec.structs.replace(
                manifest,
                kind=ReleaseKind.DELTA,
                base_version=self._base[0],
                patch={name: raw.entry() for name, raw in delta.items()},
            )
        sha256 = self._store.publish(manifest, content)
        self._since_anchor = self._since_anchor + 1 if manifest.kind is ReleaseKind.DELTA else 1
        if self._anchor_every > 1:
            self._base = (state.version, {name: _own(raw) for name, raw in tensors.items()})
        reach(FaultPoint.PUBLISH_STORED)
        self._announce(state.version, sha256)
        self._remove_old()
        return num_bytes(content)

    def _delta(self, base: Mapping[str, RawTensor], tensors: Mapping[str, RawTensor]) -> dict[str, RawTensor] | None:
        """What changed since `base`; None when it is time for an anchor, or when the delta would be larger."""
        delta = make_delta(base, tensors)
        changed = sum(raw.shape[0] for name, raw in delta.items() if name.endswith(POSITIONS))
        self.density = changed / sum(math.prod(raw.shape) for raw in tensors.values())
        if self._since_anchor >= self._anchor_every or num_bytes(delta) >= num_bytes(tensors):
            return None
        return delta

    def announce(self, version: int) -> None:
        """Announce a release that the store has. Raises WriterReplaced or LogUnavailable."""
        manifest = self._store.manifest(self._model, version)
        self._announce(version, hashlib.sha256(wire.encode(manifest)).hexdigest())

    def close(self) -> None:
        """Disconnect."""
        self._log.close()

    def _manifest(self, state: CheckpointState, tensors: Mapping[str, RawTensor]) -> ReleaseManifest:
        return ReleaseManifest(
            model=self._model,
            version=state.version,
            kind=ReleaseKind.FULL,
            epoch=self._epoch,
            created_at=time.time(),
            tensors={name: raw.entry() for name, raw in tensors.items()},
            offsets=state.offsets,
            watermark=state.watermark,
            events_trained=state.events_trained,
            added_items=self._added_items(state),
        )

    def _added_items(self, state: CheckpointState) -> AddedItems | None:
        return AddedItems.behind(self._item_ids, state.added_items) if state.added_items else None

    def _announce(self, version: int, sha256: str) -> None:
        message = ReleaseAnnouncement(model=self._model, version=version, epoch=self._epoch, manifest_sha256=sha256)
        record = (topics.RELEASES, self._model.encode(), wire.encode(message))
        try:
            self._log.produce_transaction(self._transactional_id, [record])
        except WriterFenced as fenced:
            self._reclaim(fenced)
            self._log.produce_transaction(self._transactional_id, [record])
        except LogUnavailable as error:
            # kafka-python 3.0.12 goes on asking a node that has died (seen: 120 s); a new connection asks the others.
            self._must_be_writer(error)
            with suppress(LogUnavailable):
                self._reconnect()
            raise
        reach(FaultPoint.PUBLISH_ANNOUNCED)

    @property
    def _transactional_id(self) -> str:
        return f"slipstream-trainer-{self._model}"

    def _reclaim(self, fenced: WriterFenced) -> None:
        """Connect anew when the store says that nobody has taken over. Raises WriterReplaced or LogUnavailable."""
        self._must_be_writer(fenced)
        if time.monotonic() < self._next_reclaim:
            raise LogUnavailable(
                f"{self._transactional_id} was lost again within {_RECLAIM_SECONDS} s ({fenced}); if another trainer "
                "publishes this model into another store, stop one of them"
            ) from fenced
        self._next_reclaim = time.monotonic() + _RECLAIM_SECONDS
        _log.warning("transactional_id_reclaimed", model=self._model, reason=str(fenced))
        self._reconnect()

    def _must_be_writer(self, refused: Exception) -> None:
        highest = self._store.highest_epoch(self._model)
        if highest != self._epoch:
            raise WriterReplaced(
                f"{self._model}: announcing was refused ({refused}), this writer's epoch is {self._epoch}, the store's "
                f"{highest}; another trainer has taken over, stop this one"
            ) from refused

    def _reconnect(self) -> None:
        old, self._log = self._log, self._connect()
        old.close()

    def _remove_old(self) -> None:
        if len(self._store.versions(self._model)) < self._keep_releases + _RETENTION_SLACK:
            return
        removed = self._store.remove_old(self._model, self._keep_releases, self._served())
        _log.info("releases_removed", versions=removed)
        reach(FaultPoint.PUBLISH_OLD_REMOVED)

    def _served(self) -> frozenset[int]:
        """The live version and the one before it."""
        record = newest_by_key(self._log, topics.RELEASES).get(live_key(self._model).encode())
        if record is None or record.value is None:
            return frozenset()
        live = wire.decode(record.value, LiveVersion)
        return frozenset({live.version, *([live.previous_version] if live.previous_version else [])})


def _own(raw: RawTensor) -> RawTensor:
    """A tensor whose bytes do not change with the weights."""
    return RawTensor(raw.dtype, raw.shape, bytes(raw.data))
