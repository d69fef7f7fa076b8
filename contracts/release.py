"""A release: one version of a model's weights, its manifest, and what is said of it on Kafka.

The releases topic is compacted and has two kinds of key. Under the model's name stands the newest published
release (written by the trainer, in a transaction whose id fences off a replaced trainer). Under
`live_key(model)` stands the version that the rollout last committed (written by the gateway's rollout), which
is what a restarting replica must reach before it is ready.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from contracts.event import Identifier

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[int, msgspec.Meta(ge=1)]
ModelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class ReleaseKind(StrEnum):
    """Whether a release stands alone (`full`, an anchor) or patches a named base (`delta`)."""

    FULL = "full"
    DELTA = "delta"


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a release.

    Attributes:
        dtype: the safetensors name, `F32`, `BF16`, …
        shape: sizes, outermost first.
        sha256: of the tensor's raw little-endian bytes in row-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: Sha256


class AddedItems(msgspec.Struct, frozen=True, kw_only=True):
    """Items that got a token after the model folder was written.

    Attributes:
        item_ids: in slot order: the first has the first slot behind the folder's items.
        all_sha256: of every item id in slot order, the folder's first, so that another folder is told apart.
    """

    item_ids: tuple[Identifier, ...]
    all_sha256: Sha256

    @classmethod
    def behind(cls, folder_ids: Sequence[str], added: Sequence[str]) -> AddedItems:
        """`added` behind the folder's items."""
        digest = hashlib.sha256(msgspec.json.encode([*folder_ids, *added])).hexdigest()
        return cls(item_ids=tuple(added), all_sha256=digest)

    def fits(self, folder_ids: Sequence[str]) -> bool:
        """Whether the release was trained from a model folder with these items, in this order."""
        return self.behind(folder_ids, self.item_ids) == self


class ReleaseManifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a release is, beside its safetensors file.

    Attributes:
        model: the model's name.
        version: 1, 2, 3, …; never used twice, gaps allowed.
        kind: `full` or `delta`.
        base_version: the version a delta applies to; None for `full`.
        epoch: the writer's fencing epoch; a higher one has replaced every lower one.
        created_at: wall clock, unix seconds.
        tensors: the weights, by checkpoint name; of a delta, those that it leads to.
        patch: what a delta's file holds (`releases.delta`); None where the file holds `tensors` themselves.
        offsets: for each partition of the events topic, the first offset NOT in the weights.
        watermark: largest event time in the weights, unix seconds; None before the first event.
        events_trained: distinct events in the weights since pre-training.
        added_items: None where every item is the model folder's; of a delta, all of them, too.
        schema_version: 1.
    """

    model: ModelName
    version: Version
    kind: ReleaseKind
    epoch: Annotated[int, msgspec.Meta(ge=0)]
    created_at: float
    tensors: dict[str, TensorEntry]
    offsets: dict[int, int]
    base_version: Version | None = None
    watermark: float | None = None
    events_trained: int = 0
    patch: dict[str, TensorEntry] | None = None
    added_items: AddedItems | None = None
    schema_version: Literal[1] = 1

    def covers(self, partition: int, offset: int) -> bool:
        """Whether the event at `partition`, `offset` of the events topic is in these weights."""
        return offset < self.offsets.get(partition, 0)


class ReleaseAnnouncement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest published release of a model (key: the model's name).

    Attributes:
        manifest_sha256: of the manifest file's bytes, so that a reader knows it reads the one announced.
    """

    model: ModelName
    version: Version
    epoch: int
    manifest_sha256: Sha256
    schema_version: Literal[1] = 1


class LiveVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The version that replicas serve (key: `live_key(model)`).

    Attributes:
        previous_version: what a roll-back returns to; None for the first.
        committed_at: wall clock, unix seconds.
        paused: an operator holds the rollout at this version; a restarted gateway must not go past it.
    """

    model: ModelName
    version: Version
    committed_at: float
    previous_version: Version | None = None
    paused: bool = False
    schema_version: Literal[1] = 1


def live_key(model: Identifier) -> str:
    """The releases topic's key under which the live version of `model` stands."""
    return f"{model}/live"
