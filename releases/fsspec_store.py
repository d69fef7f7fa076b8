"""`FsspecReleaseStore`: releases in a local folder or in an object store (S3, GCS, Azure)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import stamina

from contracts import wire
from contracts.release import ModelName, ReleaseKind, ReleaseManifest
from releases.bundle import RawTensor, ReleaseCorrupt, WeightBundle
from releases.delta import apply_delta
from releases.files import open_files
from releases.store import ReleaseMissing, ReleaseStore, VersionTaken, WriterReplaced
from releases.tensor_file import read_tensors, write_tensors


class FsspecReleaseStore(ReleaseStore):
    """Releases under `root_url`; the README draws the layout.

    Retention keeps the newest `keep_last` versions, the versions named in `keep`, and the chain of bases below each
    kept delta. The newest version always stays, so that its number can't be used again.

    Args:
        root_url: a path, or an fsspec URL such as `s3://bucket/prefix`.
        storage_options: for fsspec, e.g. `key`, `secret`, `endpoint_url`; the environment (`AWS_…`) does too.
    """

    def __init__(self, root_url: str, **storage_options: Any) -> None:
        self.root_url = root_url
        self._newest_read: dict[str, tuple[ReleaseManifest, WeightBundle]] = {}
        self._files = open_files(root_url, storage_options)

    @stamina.retry(on=FileExistsError, attempts=20, timeout=30, wait_initial=0.01, wait_max=1)
    def acquire_epoch(self, model: str) -> int:
        epoch = self.highest_epoch(model) + 1
        self._files.create(_epoch_path(model, epoch), b"")
        return epoch

    def highest_epoch(self, model: str) -> int:
        return max((int(name) for name in self._files.names(f"{_folder(model)}/epochs")), default=0)

    def publish(self, manifest: ReleaseManifest, tensors: Mapping[str, RawTensor]) -> str:
        model, version = manifest.model, manifest.version
        self._refuse_replaced(manifest)
        newest = max(self.versions(model), default=0)
        if version <= newest:
            raise VersionTaken(f"{model}: version {version} is not above {newest}, the newest; take {newest + 1}")
        try:
            self._files.create(_tensors_path(manifest), write_tensors(tensors))
        except FileExistsError:
            # This writer was cut off between tensors and manifest: what lies there may be of another moment.
            self._files.remove(_tensors_path(manifest))
            self._files.create(_tensors_path(manifest), write_tensors(tensors))
        self._refuse_replaced(manifest)
        data = wire.encode(manifest)
        try:
            self._files.create(_manifest_path(model, version), data)
        except FileExistsError as error:
            raise VersionTaken(f"{model}: another writer has just used version {version}") from error
        return hashlib.sha256(data).hexdigest()

    def manifest(self, model: str, version: int) -> ReleaseManifest:
        try:
            data = self._files.read(_manifest_path(model, version))
        except FileNotFoundError as error:
            raise ReleaseMissing(f"{self.root_url} has no release {version} of {model}") from error
        try:
            manifest = wire.decode(data, ReleaseManifest)
        except wire.UnreadableMessage as error:
            raise ReleaseCorrupt(f"{model} {version}: the manifest is damaged ({error})") from error
        if (manifest.model, manifest.version) != (model, version):
            raise ReleaseCorrupt(f"{model} {version}: the manifest is of {manifest.model} {manifest.version}")
        return manifest

    def read(self, model: str, version: int) -> WeightBundle:
        manifest = self.manifest(model, version)
        try:
            data = self._files.read(_tensors_path(manifest))
        except FileNotFoundError as error:
            raise ReleaseMissing(f"{self.root_url}: the tensors of release {version} of {model} are gone") from error
        bundle = WeightBundle(manifest, read_tensors(data))
        if manifest.patch is not None and manifest.base_version is not None:
            WeightBundle(msgspec.structs.replace(manifest, tensors=manifest.patch), bundle.tensors).verify()
            base = self._base(model, manifest.base_version)
            whole = msgspec.structs.replace(manifest, kind=ReleaseKind.FULL, base_version=None, patch=None)
            bundle = WeightBundle(whole, apply_delta(base.tensors, bundle.tensors))
        bundle.verify()
        self._newest_read[model] = (manifest, bundle)
        return bundle

    def _base(self, model: str, version: int) -> WeightBundle:
        """A delta's base: the release read last, most often; else it is read, down to its anchor."""
        last = self._newest_read.get(model)
        if last is not None and last[0] == self.manifest(model, version):
            return last[1]
        return self.read(model, version)

    def versions(self, model: str) -> list[int]:
        names = self._files.names(f"{_folder(model)}/manifests")
        return sorted(int(name.removesuffix(".json")) for name in names)

    def remove_old(self, model: str, keep_last: int, keep: frozenset[int]) -> list[int]:
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last}: at least the newest version must stay")
        versions = self.versions(model)
        kept = self._with_bases(model, {*versions[-keep_last:], *(keep & set(versions))})
        removed = [version for version in versions if version not in kept]
        # Manifest before tensors: a reader finds the whole release, or none.
        for version in removed:
            self._files.remove(_manifest_path(model, version))
        self._remove_orphans(model, set(versions) - set(removed))
        return removed

    def _with_bases(self, model: str, versions: set[int]) -> set[int]:
        """`versions` and every base that a delta among them stands on."""
        kept: set[int] = set()
        waiting = list(versions)
        while waiting:
            version = waiting.pop()
            if version in kept:
                continue
            kept.add(version)
            try:
                base = self.manifest(model, version).base_version
            except (ReleaseCorrupt, ReleaseMissing):
                continue
            if base is not None:
                waiting.append(base)
        return kept

    def _remove_orphans(self, model: str, versions: set[int]) -> None:
        """Remove tensors without a manifest: retired ones, and those of a writer that stopped half-way.

        The live writer's newest may be on its way, so of the highest epoch only what lies below the newest version
        goes.
        """
        highest, newest = self.highest_epoch(model), max(versions, default=0)
        for name in self._files.names(f"{_folder(model)}/tensors"):
            version, epoch = (int(part) for part in name.removesuffix(".safetensors").split("-e"))
            if version not in versions and (epoch < highest or version < newest):
                self._files.remove(f"{_folder(model)}/tensors/{name}")

    def _refuse_replaced(self, manifest: ReleaseManifest) -> None:
        highest = self.highest_epoch(manifest.model)
        if manifest.epoch != highest:
            raise WriterReplaced(
                f"{manifest.model}: this writer's epoch is {manifest.epoch}, the store's {highest}; "
                "another trainer has taken over, stop this one"
            )


def _folder(model: str) -> str:
    """The model's folder; a name that could leave the root is refused."""
    return msgspec.convert(model, ModelName)


def _epoch_path(model: str, epoch: int) -> str:
    return f"{_folder(model)}/epochs/{epoch:010d}"


def _manifest_path(model: str, version: int) -> str:
    return f"{_folder(model)}/manifests/{version:012d}.json"


def _tensors_path(manifest: ReleaseManifest) -> str:
    return f"{_folder(manifest.model)}/tensors/{manifest.version:012d}-e{manifest.epoch:010d}.safetensors"
