"""The ledger: one row for every record of the log, what became of it and how well it was foreseen.

`prequential.jsonl` holds the records behind `train_from`, `history.jsonl` those before, which only fill histories. A
row counts once a checkpoint has recorded the ledger's length; a restart cuts the file back to that. So each offset
stands in it exactly once, whatever was killed when, and the histories and dedupe windows are rebuilt from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import msgspec

from online_trainer.append_file import AppendFile


class Untrained(StrEnum):
    """Why a record is not in the weights."""

    HISTORY = "history"
    DUPLICATE = "duplicate"
    UNREADABLE = "unreadable"
    UNKNOWN_ITEM = "unknown_item"
    NON_FINITE = "non_finite"


class LedgerRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one record.

    Attributes:
        partition, offset: of the events topic.
        batch: number of the plan that it came with; 0 in `history.jsonl`.
        trained: whether a step was taken on it.
        reason: why not.
        ndcg: NDCG@10 of its item among the unseen ones, by the weights before the batch's step.
        event_id, user_id, item_id, timestamp: the event's; None where the record can't be read.
    """

    partition: int
    offset: int
    batch: int
    trained: bool
    reason: Untrained | None = None
    ndcg: float | None = None
    event_id: str | None = None
    user_id: str | None = None
    item_id: str | None = None
    timestamp: float | None = None


class Ledger:
    """Appends rows; they are durable after `sync`."""

    def __init__(self, path: Path, length: int) -> None:
        self._file = AppendFile(path, length)
        self._encoder = msgspec.json.Encoder()

    def append(self, row: LedgerRow) -> None:
        """Add a row to what the next `sync` writes."""
        self._file.append(self._encoder.encode(row) + b"\n")

    def sync(self, written: Callable[[], None] = lambda: None) -> int:
        """Make the rows durable; returns the length in bytes. Raises OSError, and keeps the rows waiting."""
        return self._file.sync(written)

    def cut(self, length: int) -> None:
        """Forget every row behind `length`."""
        self._file.cut(length)

    def rows(self) -> Iterator[LedgerRow]:
        """The durable rows, oldest first."""
        return parse_rows(self._file.read())

    def close(self) -> None:
        """Close the file; rows that wait are lost."""
        self._file.close()


def parse_rows(data: bytes) -> Iterator[LedgerRow]:
    """The rows in a ledger's bytes."""
    decoder = msgspec.json.Decoder(LedgerRow)
    for line in data.splitlines():
        yield decoder.decode(line)


def read_rows(path: Path) -> list[LedgerRow]:
    """A ledger file's rows, for reports. The trainer may be running: a torn last row is left out."""
    data = path.read_bytes()
    return list(parse_rows(data[: data.rfind(b"\n") + 1]))
