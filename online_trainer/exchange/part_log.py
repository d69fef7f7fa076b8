"""Parts of pushes that a shard has stored: synced before they are acknowledged, kept until applied for good."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from online_trainer.append_file import AppendFile
from online_trainer.exchange.messages import Part, Pushed
from online_trainer.fault_points import FaultPoint, reach
from releases.files import sync_folder

_PREFIX = struct.Struct("<III")
Key = tuple[str, int, int]


class PartLog:
    """Files of entries: `<III` head size, data size, CRC32, then head and data. A torn end is cut; nobody was told."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._parts: dict[Key, tuple[Part, bytes]] = {}
        self._encoder = msgspec.msgpack.Encoder()
        numbers = sorted(int(path.stem) for path in folder.glob("*.parts")) or [0]
        for number in numbers[:-1]:
            file = AppendFile(self._path(number))
            self._read(file)
            file.close()
        self._number = numbers[-1]
        self._file = AppendFile(self._path(self._number))
        self._file.cut(self._read(self._file))

    def store(self, parts: list[tuple[Part, bytes]]) -> None:
        """Make parts durable as one; a part with the number of an earlier one replaces it.

        Raises:
            OSError: none of them is stored.
        """
        for part, data in parts:
            self._append(part, data)
        try:
            self._file.sync(lambda: reach(FaultPoint.SHARD_PART_WRITTEN))
        except OSError:
            self._file.cut(self._file.length)
            raise
        reach(FaultPoint.SHARD_PART_SYNCED)
        self._parts.update({_key(part): (part, data) for part, data in parts})

    def of(self, pushed: Pushed) -> bytes | None:
        """The part of an ordered push; None when there was none to store."""
        found = self._parts.get((pushed.worker, pushed.incarnation, pushed.seq))
        return found[1] if found is not None else None

    def forget(self, applied: Iterable[Pushed]) -> None:
        """Parts of these pushes go, and those of earlier numbers of their workers.

        Raises:
            OSError: what is left could not be written; on the disk all are there still.
        """
        newest: dict[tuple[str, int], int] = {}
        for pushed in applied:
            worker = pushed.worker, pushed.incarnation
            newest[worker] = max(pushed.seq, newest.get(worker, 0))
        for key in [key for key in self._parts if key[2] <= newest.get(key[:2], 0)]:
            del self._parts[key]
        # What is left is a few parts a worker. The old file stays until the new one is durable.
        old, before = self._file, self._number
        self._number += 1
        try:
            self._file = AppendFile(self._path(self._number))
            for part, data in self._parts.values():
                self._append(part, data)
            self._file.sync()
            sync_folder(self._folder)
        except OSError:
            if self._file is not old:
                self._file.close()
            self._path(self._number).unlink(missing_ok=True)
            self._file, self._number = old, before
            raise
        old.close()
        for path in self._folder.glob("*.parts"):
            if int(path.stem) <= before:
                path.unlink()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, file: AppendFile) -> int:
        """Take a file's entries; returns where they end."""
        data, at = file.read(), 0
        decoder = msgspec.msgpack.Decoder(Part)
        while at + _PREFIX.size <= len(data):
            head, size, checksum = _PREFIX.unpack_from(data, at)
            body = data[at + _PREFIX.size : at + _PREFIX.size + head + size]
            if len(body) < head + size or zlib.crc32(body) != checksum:
                break
            part = decoder.decode(body[:head])
            self._parts[_key(part)] = (part, bytes(body[head:]))
            at += _PREFIX.size + head + size
        return at

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.parts"

    def _append(self, part: Part, data: bytes) -> None:
        head = self._encoder.encode(part)
        self._file.append(_PREFIX.pack(len(head), len(data), zlib.crc32(head + data)) + head + data)


def _key(part: Part) -> Key:
    return part.worker, part.incarnation, part.seq
