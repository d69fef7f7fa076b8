"""A file that only grows, and is cut back to what was synced when something fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""No space, no quota, or a file beyond the process's limit: the mend is the operator's, the work goes on."""


def is_disk_full(error: OSError) -> bool:
    """Whether `error` says that no more can be written here."""
    return error.errno in DISK_FULL


class AppendFile:
    """Bytes wait in memory until `sync` has made them durable as a whole.

    Args:
        path: created when missing.
        length: what of it counts; bytes behind are cut off. None keeps the whole file.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._descriptor).st_size
        self.length = size if length is None else length
        """Bytes that are durable."""
        if self.length > size:
            os.close(self._descriptor)
            raise ValueError(
                f"{path} has {size} bytes and should have {length}: it was cut by hand; restore it, or start anew"
            )
        os.ftruncate(self._descriptor, self.length)
        self._waiting: list[bytes] = []

    def append(self, data: bytes) -> None:
        """Add to what the next `sync` writes."""
        self._waiting.append(data)

    def sync(self, written: Callable[[], None] = lambda: None) -> int:
        """Write what waits and fsync; returns `length`. Calls `written` between the two.

        Raises:
            OSError: nothing of it counts as written; it waits on for the next call.
        """
        data = b"".join(self._waiting)
        if data:
            try:
                _write_all(self._descriptor, data, self.length)
                written()
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, self.length)
                raise
            self.length += len(data)
            self._waiting.clear()
        return self.length

    def read(self) -> bytes:
        """The durable bytes."""
        return os.pread(self._descriptor, self.length, 0)

    def cut(self, length: int) -> None:
        """Forget what waits and everything behind `length`."""
        self._waiting.clear()
        os.ftruncate(self._descriptor, length)
        self.length = length

    def close(self) -> None:
        """Close the file; what waits is lost."""
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
