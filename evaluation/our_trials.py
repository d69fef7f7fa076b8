"""What our recommender tries on 70-80 %: six settings of a stream, six of leave-one-out.

The ablations over all four sets say where to look (benchmarks/2026-11-24-recipe-four-sets.md and -recipe-copying.md):
latest-small wants many small steps, Online Retail a wide model that is asked for whole baskets, Sports few epochs and
new events that weigh more.
"""

from __future__ import annotations

from typing import Any

from evaluation.choices import Protocol

_SMALL_STEPS: dict[str, Any] = {"batch_events": 8, "replay_windows": 16, "event_weight": 0.3 / 8, "average": 0.99}
_MUCH_REPLAY: dict[str, Any] = {"batch_events": 16, "replay_windows": 64, "event_weight": 0.5 / 16, "average": 0.99}
_EVENTS_ALONE: dict[str, Any] = {"whole_windows": False}
_EVENTS_FIRST: dict[str, Any] = {
    "whole_windows": False,
    "learning_rate": 1e-3,
    "event_weight": 2 / 64,
    "average": 0.99,
}

_STREAM: tuple[dict[str, Any], ...] = (
    {},
    {"online": _MUCH_REPLAY},
    {"model": {"copying": 0.0}, "pretrain": {"epochs": 40.0, "dropout": 0.5}, "online": _SMALL_STEPS},
    {
        "model": {"preset": "wide"},
        "pretrain": {
            "epochs": 8.0,
            "batch_rows": 32,
            "learning_rate": 1e-3,
            "dropout": 0.3,
            "whole_block_share": 1.0,
        },
        "online": _EVENTS_ALONE,
    },
    {"pretrain": {"epochs": 10.0, "batch_rows": 128}, "online": _EVENTS_FIRST},
    {"pretrain": {"epochs": 30.0, "batch_rows": 128, "dropout": 0.3}, "online": _EVENTS_FIRST},
)
_LEAVE_ONE_OUT: tuple[dict[str, Any], ...] = (
    {},
    {"model": {"copying": 0.0}, "pretrain": {"epochs": 40.0, "dropout": 0.5}},
    {"pretrain": {"epochs": 30.0, "batch_rows": 128}},
    {"pretrain": {"epochs": 40.0, "batch_rows": 128, "dropout": 0.3}},
    {
        "model": {"preset": "medium"},
        "pretrain": {"epochs": 40.0, "batch_rows": 128, "learning_rate": 1e-3, "dropout": 0.3},
    },
    {
        "model": {"preset": "medium"},
        "pretrain": {"epochs": 60.0, "batch_rows": 128, "learning_rate": 1e-3, "dropout": 0.5},
    },
)


def our_trials(protocol: Protocol) -> tuple[dict[str, Any], ...]:
    """Settings of `Ours`, as many as each loss of SASRec has."""
    return _LEAVE_ONE_OUT if protocol == "leave-one-out" else _STREAM
