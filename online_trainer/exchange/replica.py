"""Weights as a function of orders: what every owner keeps of its shard and every worker of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kernels.apply import AdamSettings
from online_trainer.exchange import payloads
from online_trainer.exchange.messages import Order, Rule

_WEIGHTS, _FIRST, _SECOND, _COUNT = "replica.weights", "replica.exp_avg", "replica.exp_avg_sq", "replica.steps"
_AVERAGE = "replica.average"


class OrderGap(ValueError):
    """An order that does not follow the last one."""


class Replica:
    """Elements `start` … of the weight vector at order `index`, and the owners' optimizer state with them.

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
        self.steps = 0
        self._moments = (torch.zeros_like(weights), torch.zeros_like(weights)) if rule.optimizer == "adamw" else None

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
        if self._moments is None:
            for pushed, payload in zip(order.pushes, data, strict=True):
                first, last = self._part(pushed.start, pushed.stop)
                payloads.add(
                    pushed.encoding, payload, -self.rule.learning_rate * pushed.scale, self.weights[first:last]
                )
        elif any(data):
            self._adamw(order, data)
        if self.rule.average and any(data):
            self.serving.lerp_(self.weights, 1 - self.rule.average)
        self.index = order.index

    def state(self) -> dict[str, Tensor]:
        """By name, sharing memory."""
        state = {_WEIGHTS: self.weights, _COUNT: torch.tensor([self.index, self.steps])}
        if self.rule.average:
            state[_AVERAGE] = self.serving
        if self._moments is not None:
            state |= {_FIRST: self._moments[0], _SECOND: self._moments[1]}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was.

        Raises:
            ValueError: of another size; nothing has changed.
        """
        if state[_WEIGHTS].shape != self.weights.shape:
            raise ValueError(
                f"weights {tuple(state[_WEIGHTS].shape)} where this shard has {tuple(self.weights.shape)}: "
                "start it with the model and the number of owners that the state was written with"
            )
        if missing := self.state().keys() - state.keys():
            raise ValueError(f"the state has no {sorted(missing)}: go on with the optimizer and average it was made by")
        self.weights.copy_(state[_WEIGHTS])
        self.index, self.steps = state[_COUNT].tolist()
        if self.rule.average:
            self.serving.copy_(state[_AVERAGE])
        if self._moments is not None:
            self._moments[0].copy_(state[_FIRST])
            self._moments[1].copy_(state[_SECOND])

    def is_finite(self) -> bool:
        """Whether every weight and moment is."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.state().values() if tensor.is_floating_point())

    def _part(self, start: int, stop: int) -> tuple[int, int]:
        """Elements `start` to `stop` of the whole vector, as far as they are this replica's, counted from its own."""
        first = min(max(start, self.start), self.stop)
        return first - self.start, max(first, min(stop, self.stop)) - self.start

    def _adamw(self, order: Order, data: Sequence[bytes]) -> None:
        """One AdamW step (Loshchilov & Hutter 2019) on the scaled sum of the decoded gradients."""
        rule = self.rule
        gradient = torch.zeros_like(self.weights)
        for pushed, payload in zip(order.pushes, data, strict=True):
            first, last = self._part(pushed.start, pushed.stop)
            payloads.add(pushed.encoding, payload, pushed.scale, gradient[first:last])
        self.steps += 1
        settings = AdamSettings(rule.learning_rate, rule.beta1, rule.beta2, rule.epsilon, rule.weight_decay)
        beta1, beta2, rate, root, epsilon, decay, _ = settings.scalars(self.steps)
        assert self._moments is not None, "only called with moments"  # noqa: S101
        exp_avg, exp_avg_sq = self._moments
        exp_avg.mul_(beta1).add_(gradient, alpha=1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self.weights.mul_(decay).addcdiv_(exp_avg, exp_avg_sq.sqrt().mul_(root).add_(epsilon), value=-rate)
