"""Reading the JSON files that stand beside the weights in a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


def read_struct(path: Path, kind: type[T]) -> T:
    """The file as a `kind`, every rule of the struct checked.

    Raises:
        FileNotFoundError: the folder is no recommender; the text says how to make one.
        ValueError: the file is damaged or of another version; the text names the field.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {path.parent} is no recommender; make one with `slipstream init --out {path.parent}`"
        )
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); write the model folder again") from error
