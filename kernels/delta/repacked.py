"""Deltas for a model whose weights vLLM has repacked (its CPU build): no live tensor is left to scatter into.

The path: keep the checkpoint's tensors beside the model, scatter into those (undo log and checksum as for a live
model), and hand the touched tensors to the engine's own loading, which packs them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from kernels.delta.live import LiveModel, Region
from kernels.delta.model_delta import ModelDelta

Reload = Callable[[Iterable[tuple[str, torch.Tensor]]], object]
"""Takes (checkpoint name, whole tensor) pairs and makes them live, or raises and leaves the old ones live."""


class RepackedModel:
    """A checkpoint's tensors on the CPU, one dtype, and the engine that serves a packed copy of them.

    Costs the model's size in memory once more. Not for several threads at once.

    Args:
        tensors: by checkpoint name, contiguous; changed in place from now on.
        reload: see `Reload`; for vLLM `vllm_reload(model, model_config)`.
        whole: hand over every tensor each time, for engines that can't load a part.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], reload: Reload, *, whole: bool = False) -> None:
        self._tensors, self._reload, self._whole = dict(tensors), reload, whole
        self._shadow = LiveModel({name: [Region.whole(tensor)] for name, tensor in tensors.items()})

    def apply(self, delta: ModelDelta) -> Callable[[], None]:
        """Scatter and reload; returns what undoes both. When the engine refuses, nothing has changed.

        Raises:
            ScatterRefused: the delta does not fit; and whatever `reload` raises.
        """
        staged = self._shadow.stage(delta)
        self._shadow.scatter(staged)
        try:
            self._reload(self._touched(delta))
        except BaseException:
            self._shadow.revert(staged)
            raise

        def undo() -> None:
            self._shadow.revert(staged)
            self._reload(self._touched(delta))

        return undo

    def _touched(self, delta: ModelDelta) -> list[tuple[str, torch.Tensor]]:
        changed = {
            name for name, first, last in zip(delta.names, delta.starts, delta.starts[1:], strict=False) if last > first
        }
        return [(name, tensor) for name, tensor in self._tensors.items() if self._whole or name in changed]

    def checksum(self) -> str:
        """Of the tensors kept here, 16 hex digits."""
        return self._shadow.checksum()


def vllm_reload(model: torch.nn.Module, model_config: object) -> Reload:
    """vLLM's layer-wise reload of a live `model`: unpack, load, pack again. Give it every tensor (`whole=True`)."""

    def reload(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

        initialize_layerwise_reload(model)
        model.load_weights(tensors)  # type: ignore[operator]
        finalize_layerwise_reload(model, model_config)

    return reload
