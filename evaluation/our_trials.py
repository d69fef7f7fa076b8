"""What our recommender tries on 70-80 %: twelve settings around the recipe's defaults."""

from __future__ import annotations

from typing import Any

OUR_TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"pretrain": {"epochs": 40.0}},
    {"pretrain": {"epochs": 80.0, "dropout": 0.3}},
    {"pretrain": {"epochs": 80.0, "dropout": 0.5}},
    {"pretrain": {"epochs": 40.0, "learning_rate": 1e-3, "dropout": 0.3}},
    {"pretrain": {"epochs": 40.0, "batch_rows": 64, "dropout": 0.3}},
    {"pretrain": {"epochs": 40.0, "weight_decay": 0.3, "dropout": 0.3}},
    {"pretrain": {"epochs": 40.0, "dropout": 0.3}, "online": {"learning_rate": 1e-3}},
    {"pretrain": {"epochs": 40.0, "dropout": 0.3}, "online": {"learning_rate": 4e-3}},
    {"pretrain": {"epochs": 40.0, "dropout": 0.3}, "online": {"batch_events": 256, "event_weight": 0.3 / 256}},
    {"pretrain": {"epochs": 40.0, "dropout": 0.3}, "online": {"event_weight": 1.0 / 64}},
    {"pretrain": {"epochs": 40.0, "dropout": 0.3}, "online": {"average": 0.98}},
)
