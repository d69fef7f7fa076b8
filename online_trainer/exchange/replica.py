"""Weights as a function of orders: what every owner keeps of its shard and every worker of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from online_trainer.exchange import payloads
from online_trainer.exchange.messages import AddedRows, Order, Rule

_WEIGHTS, _AVERAGE, _COUNT = "replica.weights", "replica.average", "replica.steps"


class OrderGap(ValueError):
    """An order that does not follow the last one."""


class Replica:
    """Elements `start` … of the weight vector at order `index`, and the average that serves.

    Deterministic: the same first state and orders give the same bits, on any machine with the same kernels.

    Args:
        weights: `[n]` fp32 that learn, changed in place.
        start: where it begins in the whole vector.
        serving: `[n]` fp32, the running average of `weights` (`Rule.average`); a copy of them by default.
    """

    def __init__(self, weights: Tensor, rule: Rule, start: int = 0, serving: Tensor | None = None) -> None:
        self.weights = weights
        self.serving = weights if not rule.average else weights.clone() if serving is None else serving
        self.rule = rule
        self.start = start
        self.index = 0

    @property
    def stop(self) -> int:
        """End of its elements in the whole vector."""
        return self.start + self.weights.numel()

    def apply(self, order: Order, data: Sequence[bytes]) -> None:
        """Take the next order; `data` has a payload for each of its pushes, cut to this replica's elements.

        Raises:
            OrderGap: not the next one; nothing has changed.
        """
        if order.index != self.index + 1:
            raise OrderGap(f"order {order.index} where {self.index + 1} comes next")
        for pushed, payload in zip(order.pushes, data, strict=True):
            first, last = self._part(pushed.start, pushed.stop)
            payloads.add(pushed.encoding, payload, -self.rule.learning_rate * pushed.scale, self.weights[first:last])
        if order.added is not None:
            self._place(order.added)
        if self.rule.average and any(data):
            self.serving.lerp_(self.weights, 1 - self.rule.average)
        self.index = order.index

    def _place(self, added: AddedRows) -> None:
        """Absolute values, for what learns and what serves alike."""
        for start, data in added.rows.items():
            rows = torch.frombuffer(bytearray(data), dtype=torch.float32)
            first, last = self._part(start, start + len(rows))
            offset = self.start + first - start
            for weights in (self.weights, self.serving):
                weights[first:last] = rows[offset : offset + last - first]

    def state(self) -> dict[str, Tensor]:
        """By name, sharing memory."""
        state = {_WEIGHTS: self.weights, _COUNT: torch.tensor([self.index])}
        if self.rule.average:
            state[_AVERAGE] = self.serving
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was.

        Raises:
            ValueError: of another size, or with other tensors (a single worker's, another optimizer's); nothing has
                changed.
        """
        if differs := sorted(self.state().keys() ^ state.keys()):
            raise ValueError(
                f"the state and this owner differ in {', '.join(differs)}: it was written by a single worker, or with "
                "another optimizer or average; go on with the version and settings that wrote it, or begin with an "
                "empty state folder"
            )
        if state[_WEIGHTS].shape != self.weights.shape:
            raise ValueError(
                f"weights {tuple(state[_WEIGHTS].shape)} where this shard has {tuple(self.weights.shape)}: "
                "start it with the model and the number of owners that the state was written with"
            )
        self.weights.copy_(state[_WEIGHTS])
        # Folders written before wrote the steps of an optimizer of the owners' own behind the index: always 0.
        self.index = int(state[_COUNT][0])
        if self.rule.average:
            self.serving.copy_(state[_AVERAGE])

    def is_finite(self) -> bool:
        """Whether every weight is."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.state().values() if tensor.is_floating_point())

    def _part(self, start: int, stop: int) -> tuple[int, int]:
        """Elements `start` to `stop` of the whole vector, as far as they are this replica's, counted from its own."""
        first = min(max(start, self.start), self.stop)
        return first - self.start, max(first, min(stop, self.stop)) - self.start
