"""A release as a file in memory that other processes of this machine can map, and that leaves nothing behind."""

from __future__ import annotations

import os
from types import TracebackType

from releases.bundle import WeightBundle
from releases.tensor_file import write_tensors_to


class SharedRelease:
    """A bundle's tensors as a safetensors file; a context manager that yields its path, valid inside.

    It is an unnamed file in memory (Linux only), which goes with this process, even by `kill -9`. Building one copies
    every byte: do it in a thread.
    """

    def __init__(self, bundle: WeightBundle) -> None:
        descriptor = os.memfd_create(f"release-{bundle.manifest.version}")
        self._file = os.fdopen(descriptor, "wb")
        write_tensors_to(self._file, bundle.tensors)
        self._file.flush()
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"

    def __enter__(self) -> str:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
