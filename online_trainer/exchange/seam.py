"""The `GradientExchange` seam: how workers' updates become one set of weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor


class Traffic(NamedTuple):
    """Bytes on this worker's connections, framing included where the transport tells, and seconds of the exchange.

    Attributes:
        waited_seconds: with nothing else to do.
        hidden_seconds: in which the worker got on with something else.
    """

    sent_bytes: int
    received_bytes: int
    waited_seconds: float
    hidden_seconds: float = 0.0


class GradientExchange(ABC):
    """One worker's end. For one thread; every worker of a group uses the same implementation and settings.

    The order of calls is `join`, then any number of `exchange` and `refresh`, then `leave`. Weights change within
    these calls only. After them every worker that has made the same calls holds the same bits (synchronous), or will
    once it has refreshed to the same index (asynchronous).
    """

    @abstractmethod
    def join(self) -> None:
        """Take part: the weights become the group's."""

    @abstractmethod
    def exchange(self, update: Tensor) -> int:
        """Give `update` `[n]` fp32 (weights before − weights after local steps) to the group.

        What compression keeps back is added to the next update. Returns the index of the step it became part of, which
        the weights include now.
        """

    @abstractmethod
    def refresh(self) -> int:
        """Take in what others have given so far; returns the index the weights stand at."""

    @abstractmethod
    def leave(self) -> None:
        """An orderly end."""

    @property
    @abstractmethod
    def residual(self) -> Tensor:
        """`[n]` fp32: what this worker has not sent."""

    @property
    @abstractmethod
    def traffic(self) -> Traffic:
        """So far."""
