"""Dropout for a training run only: hooks on a model whose configuration (Qwen3, Llama) has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

RESIDUAL_OUTPUTS = ("o_proj", "down_proj")
"""Names of the layers that add to the residual stream in Llama-like models."""


@contextmanager
def residual_dropout(model: Any, probability: float) -> Iterator[None]:
    """While in here and in train mode, drop input embeddings and what attention and MLP add (Srivastava et al. 2014).

    Nothing of it is kept in the model. An architecture with other names gets it on its embeddings alone, beside
    whatever dropout its own configuration has.
    """

    def drop(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return torch.nn.functional.dropout(output, probability, module.training)

    layers = [layer for name, layer in model.named_modules() if name.rsplit(".", 1)[-1] in RESIDUAL_OUTPUTS]
    hooks = [layer.register_forward_hook(drop) for layer in [*layers, model.get_input_embeddings()]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
