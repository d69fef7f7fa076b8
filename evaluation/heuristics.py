"""The heuristics a model has to beat, each with twelve settings to choose from on 70-80 % of the timeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from catalogue.cooccurrence import CooccurrenceGraph
from catalogue.datasets import Dataset
from catalogue.frequency import PersonalFrequency
from catalogue.heuristic import Heuristic
from catalogue.popularity import Popularity

TRIALS = 12
"""Settings that a tuned heuristic may try."""
MODEL_TRIALS = 6
"""Settings that a model may try, each loss of SASRec as many as ours. Baselines may have more, never fewer."""

HALF_LIVES = (0.5, 1, 2, 4, 7, 14, 30, 60, 120, 365, 730, 1460)
"""Days."""


@dataclass(frozen=True)
class HeuristicMethod:
    """A heuristic by name.

    Attributes:
        make: a new one over a data set's items, from settings.
        grid: the settings to choose from; one entry means there is nothing to choose.
    """

    name: str
    make: Callable[[Dataset, Mapping[str, Any]], Heuristic]
    grid: tuple[dict[str, Any], ...] = field(default=({},))


def _cooccurrence_grid() -> tuple[dict[str, Any], ...]:
    shapes = product((3, 10, 30), (0.0, 0.3), (False, True))
    return tuple(
        {"window": size, "last": size, "decay": 0.8 if size <= 10 else 0.95, "damping": damping, "symmetric": symmetric}
        for size, damping, symmetric in shapes
    )


def _personal(data: Dataset, settings: Mapping[str, Any]) -> Heuristic:
    return PersonalFrequency(
        Popularity.decayed(settings["popular_half_life_days"], data.item_ids),
        popularity_weight=settings["popularity_weight"],
        half_life_days=settings["half_life_days"],
    )


POPULARITY_ALL_TIME = HeuristicMethod("popularity", lambda data, _: Popularity.all_time(data.item_ids))
POPULARITY_7_DAYS = HeuristicMethod("popularity-7-days", lambda data, _: Popularity.last_days(7, data.item_ids))
POPULARITY_DECAYED = HeuristicMethod(
    "popularity-decayed",
    lambda data, settings: Popularity.decayed(settings["half_life_days"], data.item_ids),
    tuple({"half_life_days": days} for days in HALF_LIVES),
)
COOCCURRENCE = HeuristicMethod(
    "cooccurrence", lambda data, settings: CooccurrenceGraph(len(data.items), **settings), _cooccurrence_grid()
)
PERSONAL_FREQUENCY = HeuristicMethod(
    "personal-frequency",
    _personal,
    tuple(
        {"popular_half_life_days": popular, "popularity_weight": weight, "half_life_days": own}
        for popular, weight, own in product((7, 30), (0.03, 0.1), (None, 365.0, 90.0))
    ),
)


def heuristic_methods(dataset: Dataset) -> list[HeuristicMethod]:
    """Those that make sense on the data set: a user's own frequency only where people buy again."""
    methods = [POPULARITY_ALL_TIME, POPULARITY_7_DAYS, POPULARITY_DECAYED, COOCCURRENCE]
    return [*methods, PERSONAL_FREQUENCY] if dataset.repeats else methods
