"""MovieLens: 100K as GroupLens and as RecBole lay it out, latest-small, and what is known of 1M.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 19, 2015.
Titles are `Name (year)`. Each reader takes the files' bytes by name.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping

import numpy as np

from catalogue.datasets.dataset import Dataset, Rows, build
from contracts.item import Item

Files = Mapping[str, bytes]

UNTITLED = "267"
"""The one item of 100K that has no film: GroupLens titles it `unknown`, RecBole misspells that, as its year too."""


def read_100k_grouplens(files: Files) -> Dataset:
    """100K from `u.data` (tab-separated), `u.item` (`|`, latin-1, 19 genre flags) and `u.genre`."""
    genres = [line.split("|")[0] for line in files["u.genre"].decode("latin-1").splitlines() if "|" in line]
    items = []
    for line in files["u.item"].decode("latin-1").splitlines():
        fields = line.split("|")
        flags = fields[5 : 5 + len(genres)]
        categories = tuple(genre for genre, flag in zip(genres, flags, strict=True) if flag == "1")
        # Three titles end in a blank in u.item and not in RecBole's copy.
        items.append(Item(item_id=fields[0], title=fields[1].strip(), categories=categories))
    return build("ml-100k", "rating", items, _numbers(files["u.data"], "\t", skip_rows=0))


def read_100k_recbole(files: Files) -> Dataset:
    """100K from `ml-100k.inter` and `ml-100k.item`: tab-separated, a header, year and title in two columns."""
    items = []
    for line in files["ml-100k.item"].decode("utf-8").splitlines()[1:]:
        item_id, name, year, genres = line.split("\t")
        title = "unknown" if item_id == UNTITLED else f"{name} ({year})"
        items.append(Item(item_id=item_id, title=title, categories=tuple(genres.split())))
    return build("ml-100k", "rating", items, _numbers(files["ml-100k.inter"], "\t", skip_rows=1))


def read_latest_small(files: Files) -> Dataset:
    """latest-small from `ratings.csv` and `movies.csv`."""
    movies = csv.DictReader(io.StringIO(files["movies.csv"].decode("utf-8"), newline=""))
    items = [
        Item(item_id=row["movieId"], title=row["title"].strip(), categories=_genres(row["genres"])) for row in movies
    ]
    return build("latest-small", "rating", items, _numbers(files["ratings.csv"], ",", skip_rows=1))


def read_1m_partial(files: Files) -> Dataset:
    """The 566,954 ratings of 1M that are known, from `events_known.dat.gz` and `movies.dat` (`::`, latin-1)."""
    items = []
    for line in files["movies.dat"].decode("latin-1").splitlines():
        item_id, title, genres = line.split("::")
        items.append(Item(item_id=item_id, title=title.strip(), categories=_genres(genres)))
    events = gzip.decompress(files["events_known.dat.gz"]).replace(b"::", b",")
    return build("ml-1m-partial", "rating", items, _numbers(events, ",", skip_rows=0))


def _genres(text: str) -> tuple[str, ...]:
    return () if text == "(no genres listed)" else tuple(text.split("|"))


def _numbers(data: bytes, delimiter: str, skip_rows: int) -> Rows:
    """Rows of `user, item, rating, timestamp`; float64 holds every id and timestamp exactly."""
    table = np.loadtxt(io.BytesIO(data), dtype=np.float64, delimiter=delimiter, skiprows=skip_rows, ndmin=2)
    whole = table[:, [0, 1, 3]].astype(np.int64)
    return Rows(
        user_ids=[str(user) for user in whole[:, 0].tolist()],
        item_ids=[str(item) for item in whole[:, 1].tolist()],
        timestamps=whole[:, 2].copy(),
        values=table[:, 2].astype(np.float32),
    )
