"""Two shops: purchases of UCI Online Retail, reviews of Amazon Sports and Outdoors."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from catalogue.datasets.dataset import Dataset, Rows, build
from catalogue.datasets.errors import UnreadableData
from contracts.item import Item

Files = Mapping[str, bytes]


def read_online_retail(files: Files) -> Dataset:
    """Online Retail from `events.tsv.gz`: an item's id is its description, its value the quantity bought.

    A user's lines of one minute are one basket. The file has no prices or items of its own that we need.
    """
    columns = _columns(files["events.tsv.gz"], "events.tsv.gz")
    descriptions = columns["Description"]
    rows = Rows(
        user_ids=columns["CustomerID"],
        item_ids=descriptions,
        timestamps=_integers(columns["timestamp"]),
        values=_integers(columns["Quantity"]).astype(np.float32),
    )
    items = [Item(item_id=description, title=description) for description in set(descriptions)]
    return build("online-retail", "purchase", items, rows, repeats=True)


def read_amazon_sports(files: Files) -> Dataset:
    """Amazon Sports 5-core (2014) from `events.tsv.gz` and `items.tsv.gz`; an item's id is its ASIN.

    Users are the file's own numbers, not Amazon's reviewer ids. Titles are the texts that IDGenRec generated.
    Timestamps are days; `sequence` is the order in which the field's papers read a user's items.
    """
    columns = _columns(files["events.tsv.gz"], "events.tsv.gz")
    table = _columns(files["items.tsv.gz"], "items.tsv.gz")
    items = [
        Item(item_id=asin, title=title or text_id)
        for asin, title, text_id in zip(table["asin"], table["title"], table["text_id"], strict=True)
    ]
    rows = Rows(
        user_ids=columns["user_idx"],
        item_ids=columns["asin"],
        timestamps=_integers(columns["timestamp"]),
        sequence=_integers(columns["seq_pos"]).astype(np.int32),
    )
    return build("amazon-sports", "review", items, rows)


def _integers(column: list[str]) -> NDArray[np.int64]:
    """`column` as integers; `np.array` on a list of strings takes ten times as long."""
    return np.fromiter(map(int, column), np.int64, len(column))


def _columns(data: bytes, name: str) -> dict[str, list[str]]:
    """The columns of a gzipped, tab-separated file with a header, its quoted fields unquoted.

    Fields go into one flat list: 800,000 row lists alive at once make the garbage collector take 5 s of 6.
    """
    reader = csv.reader(io.StringIO(gzip.decompress(data).decode("utf-8"), newline=""), delimiter="\t")
    header = next(reader, [])
    fields: list[str] = []
    for row in reader:
        if len(row) != len(header):
            raise UnreadableData(
                f"{name}, line {reader.line_num}: {len(row)} fields where the header has {len(header)}"
            )
        fields.extend(row)
    return {column: fields[index :: len(header)] for index, column in enumerate(header)}
