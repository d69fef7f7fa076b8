"""What our recommender tries on 70-80 %: twelve settings around the recipe's defaults.

The ablation over all four sets (benchmarks/2026-11-24-recipe-four-sets.md) says where to look: the three that drift
want a new event to count three times as much as MovieLens 100K does, and latest-small four times the steps.
"""

from __future__ import annotations

from typing import Any

_LONGER: dict[str, Any] = {"epochs": 40.0, "dropout": 0.3}


def _online(**settings: Any) -> dict[str, Any]:
    return {"pretrain": _LONGER, "online": settings}


OUR_TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"pretrain": _LONGER},
    {"pretrain": {"epochs": 80.0, "dropout": 0.5}, "online": {"event_weight": 1 / 64}},
    _online(learning_rate=1e-3),
    _online(event_weight=1 / 64),
    _online(event_weight=1 / 64, average=0.95),
    _online(event_weight=3 / 64),
    _online(event_weight=1 / 64, replay_windows=64),
    _online(event_weight=1 / 64, learning_rate=4e-3),
    _online(batch_events=16, event_weight=0.3 / 16),
    _online(batch_events=16, event_weight=1 / 16),
    _online(batch_events=16, event_weight=1 / 16, average=0.95),
)
