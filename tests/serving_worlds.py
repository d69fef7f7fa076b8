"""Recommenders with random weights, and their releases, for the tests of `serving`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch

from contracts.item import Item
from contracts.release import ReleaseKind, ReleaseManifest
from recommender.initialise import preset_recommender
from recommender.loading import save_recommender
from releases.bundle import RawTensor, WeightBundle
from releases.tensor_file import read_tensors

NUM_ITEMS = 800
MODEL = "tiny"


def write_recommenders(
    directory: Path, count: int, num_items: int = NUM_ITEMS, preset: str = "tiny", scale: float = 5.0
) -> list[Path]:
    """`count` folders of one model with different weights.

    Scaled up: with the small initial weights all items score alike, and no test would see a wrong one.
    """
    items = [Item(item_id=f"item-{n}") for n in range(num_items)]
    folders = []
    for seed in range(count):
        recommender = preset_recommender(preset, items, seed=seed)
        with torch.no_grad():
            for parameter in recommender.model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(scale)
        folders.append(directory / f"weights-{seed}")
        save_recommender(recommender, folders[-1])
    return folders


def tensors_of(model_dir: Path) -> dict[str, RawTensor]:
    """The folder's weights as a release's tensors."""
    return read_tensors((model_dir / "model.safetensors").read_bytes())


def manifest_of(tensors: dict[str, RawTensor], version: int, epoch: int = 1) -> ReleaseManifest:
    """The manifest of a full release."""
    return ReleaseManifest(
        model=MODEL,
        version=version,
        kind=ReleaseKind.FULL,
        epoch=epoch,
        created_at=0.0,
        tensors={name: tensor.entry() for name, tensor in tensors.items()},
        offsets={},
    )


def bundle_of(model_dir: Path, version: int) -> WeightBundle:
    """The folder's weights as a release."""
    tensors = tensors_of(model_dir)
    return WeightBundle(manifest_of(tensors, version), tensors)


def histories(count: int, num_items: int = NUM_ITEMS) -> list[list[str]]:
    """Histories of no, one, some, a full window's and more items; the same each time."""
    draw = random.Random(0)
    lengths = [0, 1, 10, 50, 80]
    return [[f"item-{draw.randrange(num_items)}" for _ in range(lengths[n % 5])] for n in range(count)]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Polls until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.001)
