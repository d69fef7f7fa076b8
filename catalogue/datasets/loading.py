"""Finding a data set: where the caller says, `$SLIPSTREAM_DATA`, the cache, then the wheel that carries it."""

from __future__ import annotations

import os
from pathlib import Path

from catalogue.datasets.dataset import Dataset
from catalogue.datasets.errors import MissingData
from catalogue.datasets.files import Found, Source, find_in
from catalogue.datasets.registry import source_of
from catalogue.datasets.wheel import fetch

DATA_VARIABLE = "SLIPSTREAM_DATA"
CACHE_VARIABLE = "SLIPSTREAM_CACHE"


def load(name: str, path: Path | None = None) -> Dataset:
    """The data set `name`, every file of it checked against the sha256 recorded in `registry.py`.

    Args:
        name: one of `NAMES`.
        path: the data set's folder, or the folder that holds it; only there is looked then. Without it:
            `$SLIPSTREAM_DATA`, the cache (`$SLIPSTREAM_CACHE/data`, else `~/.cache/slipstream/data`), and for
            `ml-100k` at last the `recbole` wheel, which pip downloads.

    Raises:
        DataError: an unknown name, files missing, changed or contradictory; the text says what to do.
    """
    source = source_of(name)
    found = find(name, path)
    if found is None:
        found = fetch_to_cache(source)
    return found.load()


def find(name: str, path: Path | None = None) -> Found | None:
    """Where `load` would read `name`, without downloading; None when only a download could help.

    Raises:
        MissingData: `path` (or `$SLIPSTREAM_DATA`) does not exist, or `path` does not hold the data set.
    """
    source = source_of(name)
    if path is not None:
        return _find_at(source, path)
    roots = [cache_folder()]
    if os.environ.get(DATA_VARIABLE):
        named = Path(os.environ[DATA_VARIABLE]).expanduser()
        if not named.exists():
            raise MissingData(f"${DATA_VARIABLE} names {named}, which does not exist; correct or unset it")
        roots.insert(0, named)
    return next((found for root in roots if (found := find_in(source, root)) is not None), None)


def fetch_to_cache(source: Source) -> Found:
    """Download `source` into the cache.

    Raises:
        MissingData: no wheel carries it, or pip failed; the text says how else to get it.
    """
    for layout in source.layouts:
        if layout.wheel is not None:
            try:
                return fetch(layout, layout.wheel, cache_folder() / source.folders[0])
            except MissingData as error:
                raise MissingData(f"{error}\n{how_to_get(source)}") from error
    raise MissingData(f"{source.name} is neither under ${DATA_VARIABLE} nor in {cache_folder()}.\n{how_to_get(source)}")


def cache_folder() -> Path:
    """The folder of the data sets we fetched: `$SLIPSTREAM_CACHE/data`, else `~/.cache/slipstream/data`."""
    base = os.environ.get(CACHE_VARIABLE)
    return (Path(base).expanduser() if base else Path.home() / ".cache" / "slipstream") / "data"


def how_to_get(source: Source) -> str:
    """What a person does to have `source`: where the files come from, and where we look for them."""
    files = " or ".join(
        f"{', '.join(layout.sha256)} ({layout.origin}{', or the wheel that carries them' if layout.wheel else ''})"
        for layout in source.layouts
    )
    return (
        f"{source.obtain}\nThen pass --data PATH or set ${DATA_VARIABLE}=PATH, "
        f"where PATH, or PATH/{source.folders[0]}, holds {files}."
    )


def _find_at(source: Source, path: Path) -> Found:
    path = path.expanduser()
    if not path.exists():
        raise MissingData(f"--data {path} does not exist.\n{how_to_get(source)}")
    found = find_in(source, path)
    if found is None:
        tried = ", ".join(str(folder) for folder in [path, *(path / folder for folder in source.folders)])
        raise MissingData(f"{source.name} is not under {path} (looked into {tried}).\n{how_to_get(source)}")
    return found
