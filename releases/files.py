"""The four things a release store needs of a file system, on a local disk and on an object store.

fsspec alone gives too little on a local disk: its writes are neither synced nor exclusive. So local files are
written by hand (temporary file, fsync, link, fsync of the folder), and fsspec does the object stores, where a put is
atomic and a conditional put is exclusive.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import fsspec

from releases.bundle import ReleaseCorrupt
from releases.unavailable import reached

try:
    from botocore.exceptions import FlexibleChecksumError
except ImportError:  # without the extra `s3`
    _DAMAGED: tuple[type[Exception], ...] = ()
else:
    _DAMAGED = (FlexibleChecksumError,)

_S3_TRIES = 2
"""Of one call, by botocore, whose connections wait 5 s and reads 15 s: a store that swallows packets is found out in
10 s, one that hangs in 30 s. Who calls may be training meanwhile, and tries again later."""

CONDITIONAL_PUT = ("s3", "s3a", "gs", "gcs", "abfs", "az")
"""fsspec protocols whose `pipe_file(mode="create")` is decided by the server."""


class Files(ABC):
    """Whole files under one root; a path is relative and has `/` in it. Thread-safe.

    Each method raises StoreUnavailable where the root is in an object store that can't be reached.
    """

    @abstractmethod
    def create(self, path: str, data: bytes) -> None:
        """Write a new file, durable and whole. Raises FileExistsError, the old file untouched."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError; ReleaseCorrupt where the store itself finds the bytes damaged."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names in a folder, ascending; none when it is missing."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file; a missing one is no error."""


def open_files(root_url: str, storage_options: dict[str, Any]) -> Files:
    """Files under a path or URL. Raises ValueError for a store that can't create a file exclusively."""
    protocol, _ = fsspec.core.split_protocol(root_url)
    if protocol in (None, "file", "local"):
        path = root_url if protocol is None else fsspec.core.strip_protocol(root_url)
        return LocalFiles(Path(path).absolute())
    if protocol not in CONDITIONAL_PUT:
        raise ValueError(
            f"{root_url}: {protocol} has no conditional put, so two writers could not be told apart; "
            f"use a folder or one of {', '.join(CONDITIONAL_PUT)}"
        )
    return ObjectFiles(root_url, storage_options)


class LocalFiles(Files):
    """A folder on a local disk, or a mounted one that has hard links."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, path: str, data: bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # Unlike a rename, a link refuses to replace a file.
            os.link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.root / folder) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def remove(self, path: str) -> None:
        (self.root / path).unlink(missing_ok=True)


class ObjectFiles(Files):
    """A bucket and prefix, by fsspec."""

    def __init__(self, root_url: str, storage_options: dict[str, Any]) -> None:
        # Another process writes here too: a cached listing would hide its files.
        options = {"use_listings_cache": False, **storage_options}
        protocol, _ = fsspec.core.split_protocol(root_url)
        if protocol in ("s3", "s3a"):
            tries = {"retries": {"mode": "standard", "total_max_attempts": _S3_TRIES}}
            options["config_kwargs"] = {**tries, **options.get("config_kwargs", {})}
        self.fs, root = fsspec.core.url_to_fs(root_url, **options)
        if protocol in ("s3", "s3a"):
            # s3fs would do what botocore has given up on five times over.
            self.fs.retries = 1
        self.root = root.rstrip("/")
        self._url = root_url

    def create(self, path: str, data: bytes) -> None:
        with reached(self._url):
            self.fs.pipe_file(f"{self.root}/{path}", data, mode="create")

    def read(self, path: str) -> bytes:
        try:
            with reached(self._url):
                return bytes(self.fs.cat_file(f"{self.root}/{path}"))
        except _DAMAGED as error:
            raise ReleaseCorrupt(f"{self.root}/{path}: {error}") from error

    def names(self, folder: str) -> list[str]:
        try:
            with reached(self._url):
                found = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(path.rsplit("/", 1)[-1] for path in found)

    def remove(self, path: str) -> None:
        try:
            with reached(self._url):
                self.fs.rm_file(f"{self.root}/{path}")
        except FileNotFoundError:
            return


def sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
