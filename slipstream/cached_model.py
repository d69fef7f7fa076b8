"""The small pre-trained model that the demo and the experiments start from, made once and kept in the cache."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

PRESET = "tiny"


class PretrainingFailed(Exception):
    """`slipstream pretrain` ended badly; its own words are on stderr."""


def cached_model(cache: Path, dataset: str, data: Path | None, epochs: float) -> Path:
    """The model's folder below `cache`, from before or made now.

    Its name holds what the recipe was, so that another recipe makes another model.

    Raises:
        PretrainingFailed: it could not be made.
    """
    folder = cache / "models" / f"{PRESET}-{dataset}-{epochs:g}-epochs-{_recipe()}"
    if not (folder / "items.json").exists():
        command = [sys.executable, "-m", "slipstream.cli", "pretrain", "--preset", PRESET, "--dataset", dataset]
        command += ["--out", str(folder), "--epochs", str(epochs), "--resume"]
        if data is not None:
            command += ["--data", str(data)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise PretrainingFailed(f"slipstream pretrain failed; remove {folder} if it keeps failing")
    return folder


def _recipe() -> str:
    """Eight digits of all that decides what pre-training makes of a data set."""
    import msgspec

    from recommender import initialise
    from recommender.presets import PRESETS
    from recommender.recipe import PRETRAIN

    parts = (msgspec.json.encode(PRETRAIN), repr(PRESETS[PRESET]), initialise.COPY_GAIN, initialise.COPY_SHARPNESS)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]
