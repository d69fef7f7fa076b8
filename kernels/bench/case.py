"""What one op gives the bench: something to run, the bytes it must move, goals, and baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Figure = tuple[float, str, float | None, str]
"""Value, unit, goal, better."""


@dataclass(frozen=True)
class Baseline:
    """Another way to the same result, and how many times faster than it the op should be."""

    name: str
    run: Callable[[], object]
    goal: float | None = None
    runs: int = 20


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: op and size.
        run: the op, on inputs already made.
        bytes_moved: the fewest bytes it must move; None where bandwidth says nothing.
        elements: what `bytes_moved` is spread over, for the roofline.
        bandwidth_goal: share of copy bandwidth wanted.
        goal_ms: a time wanted.
        baselines: other ways.
        figures: by name, measured beside the time.
    """

    name: str
    run: Callable[[], object]
    bytes_moved: float | None = None
    elements: float = 1.0
    bandwidth_goal: float | None = None
    goal_ms: float | None = None
    baselines: tuple[Baseline, ...] = ()
    figures: dict[str, Figure] = field(default_factory=dict)


Maker = Callable[[str, int], Iterator[Case]]
"""(device, largest size) → cases, one at a time, so that only one case's inputs exist."""
