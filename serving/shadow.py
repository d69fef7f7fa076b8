"""A second set of weights behind a live vLLM model, filled by the model's own loading code and exchanged with it.

vLLM knows how a checkpoint's tensors map onto a rank's: which rows are this rank's, which three become `qkv_proj`.
`model.load_weights` does it into whatever parameters the module tree holds. A `Shadow` is a copy of that tree (the
modules' shells, not their memory) whose parameters are fresh memory, so the same code can fill it in the
background while the live model serves. `exchange` then swaps the two sets between two steps.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from serving.fingerprint import fingerprint


class Shadow:
    """Weights that are not served: a staged release, or the one before the last commit.

    Args:
        model: the live model of this rank.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._copies: dict[int, nn.Parameter] = {}
        self._tree = self._shell(model, {})
        self.pairs = [(name, parameter, self._copies[id(parameter)]) for name, parameter in model.named_parameters()]

    def load(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Fill from checkpoint tensors by name. Raises what the model's loader raises for foreign ones."""
        tree: Any = self._tree
        tree.load_weights(tensors)

    def fingerprint(self) -> str:
        """Of these weights, comparable with `live_fingerprint`."""
        return fingerprint((name, shadow) for name, _, shadow in self.pairs)

    def exchange(self) -> None:
        """Live weights and these change places. When it raises, nothing has changed."""
        done: list[tuple[nn.Parameter, nn.Parameter]] = []
        try:
            with torch.no_grad():
                for _, live, shadow in self.pairs:
                    _exchange(live, shadow)
                    done.append((live, shadow))
        except BaseException:
            with torch.no_grad():
                for live, shadow in done:
                    _exchange(live, shadow)
            raise

    def _shell(self, module: nn.Module, seen: dict[int, nn.Module]) -> nn.Module:
        """A copy of the tree below `module`; modules and parameters shared in it (a tied head) stay shared."""
        if id(module) in seen:
            return seen[id(module)]
        shell = seen[id(module)] = copy.copy(module)
        shell._parameters = {
            name: None if parameter is None else self._copy(parameter) for name, parameter in module._parameters.items()
        }
        shell._modules = {
            name: None if child is None else self._shell(child, seen) for name, child in module._modules.items()
        }
        return shell

    def _copy(self, parameter: nn.Parameter) -> nn.Parameter:
        if id(parameter) not in self._copies:
            shadow = nn.Parameter(torch.empty_like(parameter.data), requires_grad=False)
            # The class and attributes say how a checkpoint's tensor is cut for this rank.
            shadow.__class__ = parameter.__class__
            shadow.__dict__.update(parameter.__dict__)
            self._copies[id(parameter)] = shadow
        return self._copies[id(parameter)]


def live_fingerprint(model: nn.Module) -> str:
    """Over the parameters the model computes with, read where they lie."""
    return fingerprint(model.named_parameters())


def _exchange(live: nn.Parameter, shadow: nn.Parameter) -> None:
    """On the CPU two pointers change places; elsewhere contents do, since recorded graphs hold addresses."""
    if live.device.type == "cpu":
        live.data, shadow.data = shadow.data, live.data
        return
    kept = live.data.clone()
    live.data.copy_(shadow.data)
    shadow.data.copy_(kept)
