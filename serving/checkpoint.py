"""What a model folder's weights are called and shaped, read from the files' headers."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from contracts.release import ReleaseKind
from releases.bundle import WeightBundle
from serving.engine import SwapRefused

Shapes = dict[str, tuple[int, ...]]


def checkpoint_shapes(model_dir: Path) -> Shapes:
    """Shape by tensor name. Raises FileNotFoundError when the folder has no safetensors file."""
    shapes: Shapes = {}
    for path in sorted(model_dir.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.offset_keys()}
    if not shapes:
        raise FileNotFoundError(f"{model_dir} has no .safetensors file; `slipstream init` and `pretrain` write one")
    return shapes


def refuse_foreign(bundle: WeightBundle, expected: Shapes) -> None:
    """Raises SwapRefused unless the release is full and has exactly these tensors. Its dtype may be another."""
    manifest = bundle.manifest
    if manifest.kind is not ReleaseKind.FULL:
        raise SwapRefused(
            f"release {manifest.version} is a {manifest.kind} on {manifest.base_version}; "
            "this engine takes full releases, have the store put it together first"
        )
    found = {name: tensor.shape for name, tensor in bundle.tensors.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        name = wrong[0]
        raise SwapRefused(
            f"release {manifest.version} has other tensors than the model: {name} is {found.get(name, 'missing')}, "
            f"the model's is {expected.get(name, 'missing')} ({len(wrong)} differ); is it another model's release?"
        )
