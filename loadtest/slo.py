"""Service levels as an exit code: what was promised, what was measured, which promise broke."""

from __future__ import annotations

from dataclasses import dataclass

EXIT_BROKEN = 3
"""The process's exit code when a level is missed; 1 is Locust's own for errors, 2 a wrong argument."""


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Upper bounds.

    Attributes:
        p99_ms: of the recommendation's latency.
        failure_ratio: failed requests of all.
        fallback_ratio: recommendations that a failure turned into popularity, of all recommendations.
    """

    p99_ms: float
    failure_ratio: float
    fallback_ratio: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run measured; see `Levels`. A run without a request has kept no promise."""

    requests: int
    p99_ms: float
    failure_ratio: float
    fallback_ratio: float


def broken(levels: Levels, measured: Measured) -> list[str]:
    """A sentence for each level that was missed; empty when all were kept."""
    if measured.requests == 0:
        return ["no request was made: is the gateway up?"]
    found = []
    for name in ("p99_ms", "failure_ratio", "fallback_ratio"):
        bound, value = getattr(levels, name), getattr(measured, name)
        if value > bound:
            found.append(f"{name} is {value:.4g}, promised was at most {bound:.4g}")
    return found
