"""When requests arrive: the open loop's clock."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

Arrivals = Literal["poisson", "constant"]


def arrival_times(rate: float, seconds: float, arrivals: Arrivals = "poisson", seed: int = 0) -> Iterator[float]:
    """Seconds after the start at which requests are due, below `seconds`, `rate` a second on average.

    `poisson` draws independent exponential gaps, as many independent users make them; `constant` spaces them evenly.

    Raises:
        ValueError: a rate that is not above 0.
    """
    if rate <= 0:
        raise ValueError(f"rate must be above 0, not {rate}")
    rng = random.Random(seed)
    due = 0.0
    while True:
        due += rng.expovariate(rate) if arrivals == "poisson" else 1.0 / rate
        if due >= seconds:
            return
        yield due
