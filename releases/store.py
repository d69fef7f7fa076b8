"""The `ReleaseStore` seam: where releases lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from contracts.release import ReleaseManifest
from releases.bundle import RawTensor, WeightBundle


class WriterReplaced(Exception):
    """A later writer holds a higher epoch; this one must stop and never publish again."""


class VersionTaken(Exception):
    """That version number has been used; take the next one."""


class ReleaseMissing(Exception):
    """No such release: never written, not complete, or removed by retention."""


class ReleaseStore(ABC):
    """Releases of many models under one root. Safe for many readers and, by epochs, one live writer a model.

    Each method raises StoreUnavailable (`releases/unavailable.py`) when the store can't be reached.
    """

    @abstractmethod
    def acquire_epoch(self, model: str) -> int:
        """Become the writer: a number higher than every earlier one. Every earlier writer is replaced."""

    @abstractmethod
    def highest_epoch(self, model: str) -> int:
        """The epoch that may publish; 0 before any writer."""

    @abstractmethod
    def publish(self, manifest: ReleaseManifest, tensors: Mapping[str, RawTensor]) -> str:
        """Write a release whole: tensors first, the manifest last; readers see all of it or none.

        `tensors` are the file's: the weights, or with `manifest.patch` what changed since `base_version`.

        Returns the sha256 of the manifest file, for the announcement.

        Raises:
            WriterReplaced: `manifest.epoch` is no longer the highest. VersionTaken: the number exists.
        """

    @abstractmethod
    def manifest(self, model: str, version: int) -> ReleaseManifest:
        """Raises ReleaseMissing; ReleaseCorrupt when it can't be read."""

    @abstractmethod
    def read(self, model: str, version: int) -> WeightBundle:
        """The whole weights of a release, with every checksum verified.

        A delta's are put together from its anchor on; its manifest here is that of a full release.

        Raises:
            ReleaseMissing, ReleaseCorrupt: of this release, or of one that it stands on.
        """

    @abstractmethod
    def versions(self, model: str) -> list[int]:
        """Complete releases, ascending."""

    @abstractmethod
    def remove_old(self, model: str, keep_last: int, keep: frozenset[int]) -> list[int]:
        """Apply the retention rule; returns what was removed. `keep` and what a kept delta needs stay."""
