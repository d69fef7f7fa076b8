"""The real files: counted against the published figures, and MovieLens-100K from both of its sources."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from catalogue.datasets import MissingData, find, load
from catalogue.datasets.loading import fetch_to_cache
from catalogue.datasets.registry import source_of
from catalogue.statistics import statistics

DATA = os.environ.get("SLIPSTREAM_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="set SLIPSTREAM_DATA to a folder with the data sets")


def present(name: str) -> Path:
    """`$SLIPSTREAM_DATA`, if `name` is under it; else the test is skipped."""
    try:
        find(name, Path(DATA))
    except MissingData:
        pytest.skip(f"{name} is not under $SLIPSTREAM_DATA")
    return Path(DATA)


def test_ml_100k_has_the_published_counts_wherever_it_comes_from():
    counted = statistics(load("ml-100k"))
    assert (counted.users, counted.items, counted.items_taken, counted.events) == (943, 1_682, 1_682, 100_000)
    assert counted.same_instant_share == pytest.approx(0.758, abs=5e-4)
    assert (counted.first_timestamp, counted.last_timestamp) == (874_724_710, 893_286_638)


@needs_data
@pytest.mark.parametrize(
    ("name", "users", "items", "events", "same_instant", "repeats"),
    [
        ("latest-small", 610, 9_742, 100_836, 0.230, 0),
        ("online-retail", 5_881, 5_230, 791_114, 0.996, 0.376),
        ("amazon-sports", 35_598, 18_357, 296_337, 0.614, 0),
        ("ml-1m-partial", 5_398, 3_883, 566_954, 0.668, 0),
    ],
)
def test_the_other_originals_have_the_published_counts(name, users, items, events, same_instant, repeats):
    counted = statistics(load(name, present(name)))
    assert (counted.users, counted.items, counted.events) == (users, items, events)
    assert counted.same_instant_share == pytest.approx(same_instant, abs=5e-4)
    assert counted.repeat_share == pytest.approx(repeats, abs=5e-4)


@needs_data
def test_the_wheel_and_grouplens_give_the_identical_data_set(tmp_path, monkeypatch):
    grouplens = find("ml-100k", present("ml-100k"))
    if grouplens.layout.origin != "GroupLens":
        pytest.skip("$SLIPSTREAM_DATA holds ml-100k in another layout than GroupLens'")
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    recbole = fetch_to_cache(source_of("ml-100k"))
    assert recbole.layout.origin == "RecBole"
    monkeypatch.delenv("SLIPSTREAM_DATA")
    assert find("ml-100k").place == recbole.place, "what was fetched is found in the cache"
    ours, theirs = grouplens.load(), recbole.load()
    assert (len(ours), len(ours.users), len(ours.items)) == (100_000, 943, 1_682)
    assert ours.items == theirs.items
    assert ours.users == theirs.users
    for column in ("user", "item", "timestamp", "value"):
        np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))
