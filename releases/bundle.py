"""A release in memory, without torch: raw tensor bytes and the manifest that vouches for them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from contracts.release import ReleaseManifest, TensorEntry


class ReleaseCorrupt(Exception):
    """A release whose bytes are not what its manifest says; the text names the tensor and both checksums."""


@dataclass(frozen=True)
class RawTensor:
    """A tensor as bytes: little-endian, row-major.

    Attributes:
        dtype: the safetensors name (`F32`, `BF16`, `I64`, …).
        shape: sizes, outermost first.
        data: the bytes; a memoryview is fine.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    def entry(self) -> TensorEntry:
        """What a manifest says of this tensor."""
        return TensorEntry(dtype=self.dtype, shape=self.shape, sha256=hashlib.sha256(self.data).hexdigest())


@dataclass(frozen=True)
class WeightBundle:
    """A manifest and its tensors, by checkpoint name."""

    manifest: ReleaseManifest
    tensors: Mapping[str, RawTensor]

    def verify(self) -> None:
        """Raises ReleaseCorrupt unless names, dtypes, shapes and sha256 are exactly the manifest's."""
        if missing := self.manifest.tensors.keys() ^ self.tensors.keys():
            raise ReleaseCorrupt(
                f"release {self.manifest.version}: tensors {sorted(missing)[:3]} differ from the manifest"
            )
        for name, expected in self.manifest.tensors.items():
            found = self.tensors[name].entry()
            if found != expected:
                raise ReleaseCorrupt(
                    f"release {self.manifest.version}: {name} is {found}, the manifest says {expected}"
                )
