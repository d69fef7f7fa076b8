"""The `RoutingPolicy` seam: which replica gets a request."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol


class Loaded(Protocol):
    """What a policy may know of a replica."""

    @property
    def name(self) -> str:
        """Unique in the pool."""

    @property
    def in_flight(self) -> int:
        """Requests this gateway has given it and has no answer to."""


class RoutingPolicy(ABC):
    """Chooses among replicas that can answer. Called in the event loop: no blocking, no awaiting."""

    @abstractmethod
    def choose(self, key: str, candidates: Sequence[Loaded]) -> int:
        """The index of the replica for a request of `key` (the user or session); `candidates` is never empty."""


class LeastLoaded(RoutingPolicy):
    """Power of two choices: of two replicas drawn at random, the one with fewer requests in flight.

    Close to the least loaded of all, without the herd that follows when many gateways see one replica idle.
    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 12(10), 2001.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def choose(self, key: str, candidates: Sequence[Loaded]) -> int:
        """See `RoutingPolicy.choose`; the key plays no part."""
        if len(candidates) == 1:
            return 0
        first, second = self._rng.sample(range(len(candidates)), 2)
        return second if candidates[second].in_flight < candidates[first].in_flight else first
