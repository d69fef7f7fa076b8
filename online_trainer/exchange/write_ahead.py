"""The log of orders: appended and synced before anything is applied or answered. One file between two checkpoints.

An entry is `<II` length and CRC32, a msgpack head, and the pushes' payloads behind it. A torn last entry (a crash
within a write) is cut off; nobody was told of it.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from online_trainer.append_file import AppendFile, is_disk_full
from online_trainer.exchange.messages import Order, Push
from online_trainer.exchange.order_book import OrderBook
from online_trainer.fault_points import FaultPoint, reach

_PREFIX = struct.Struct("<II")


class LogDamaged(Exception):
    """An entry in the middle of the log can't be read, or orders do not follow one another."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One order as it is kept.

    Attributes:
        order: for replicas.
        pushes: with offsets and ledger rows, in the order's order.
        sizes: bytes of each push's payload.
    """

    order: Order
    pushes: list[Push]
    sizes: list[int]


class Ordered(msgspec.Struct, frozen=True):
    """An entry with its payloads."""

    entry: Entry
    payloads: list[bytes]


class WriteAheadLog:
    """Orders behind the checkpoints of one owner. For one process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Entry)
        self._file: AppendFile | None = None

    def replay(self, after: int, book: OrderBook | None = None) -> Iterator[Ordered]:
        """The orders behind `after`, in order; afterwards the log is open for appending.

        Args:
            book: empty at `after`; made to hold what the log has before, for shards that are further behind.

        Raises:
            LogDamaged: the text says where.
        """
        index = after
        segments = self._segments()
        earlier: list[Ordered] = []
        for number in segments:
            file = AppendFile(self._path(number))
            data = file.read()
            for start, found in self._entries(data, self._path(number), last=number == segments[-1]):
                if found is None:
                    file.cut(start)
                    break
                if found.entry.order.index <= after:
                    earlier.append(found)
                    continue
                if book is not None and earlier:
                    book.prepend([(one.entry.order, one.payloads) for one in earlier])
                    earlier = []
                if found.entry.order.index != index + 1:
                    raise LogDamaged(
                        f"{self._path(number)}: order {found.entry.order.index} where {index + 1} comes next"
                    )
                index += 1
                yield found
            file.close()
        if book is not None and earlier:
            book.prepend([(one.entry.order, one.payloads) for one in earlier])
        self._open(segments[-1] if segments else index)

    def append(self, orders: list[Ordered]) -> bool:
        """Make orders durable as one, or keep them for the next append when the disk is full (False)."""
        assert self._file is not None, "replay opens the log"  # noqa: S101
        for ordered in orders:
            head = self._encoder.encode(ordered.entry)
            body = b"".join([struct.pack("<I", len(head)), head, *ordered.payloads])
            self._file.append(_PREFIX.pack(len(body), zlib.crc32(body)) + body)
        try:
            self._file.sync(lambda: reach(FaultPoint.ORDER_WRITTEN))
        except OSError as error:
            if is_disk_full(error):
                return False
            raise
        return True

    def rotate(self, committed: int, keep_after: int) -> None:
        """Begin a new file behind the checkpoint at order `committed`; files that only hold orders up to
        `keep_after` go."""
        assert self._file is not None, "replay opens the log"  # noqa: S101
        if self._file.length or committed not in self._segments():
            self._file.close()
            self._open(committed)
        segments = self._segments()
        for number, following in itertools.pairwise(segments):
            if following <= keep_after:
                self._path(number).unlink()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _entries(self, data: bytes, path: Path, last: bool) -> Iterator[tuple[int, Ordered | None]]:
        at = 0
        while at < len(data):
            whole = len(data) - at >= _PREFIX.size
            size, checksum = _PREFIX.unpack_from(data, at) if whole else (0, 0)
            body = data[at + _PREFIX.size : at + _PREFIX.size + size]
            if not whole or len(body) < size or zlib.crc32(body) != checksum:
                torn = last and at + _PREFIX.size + size >= len(data)
                if not torn and whole:
                    raise LogDamaged(f"{path}, byte {at}: the entry's checksum differs; restore the file")
                yield at, None
                return
            (head_size,) = struct.unpack_from("<I", body)
            entry = self._decoder.decode(body[4 : 4 + head_size])
            payloads, start = [], 4 + head_size
            for payload_size in entry.sizes:
                payloads.append(bytes(body[start : start + payload_size]))
                start += payload_size
            yield at, Ordered(entry, payloads)
            at += _PREFIX.size + size

    def _segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.orders"))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}.orders"

    def _open(self, number: int) -> None:
        self._file = AppendFile(self._path(number))
