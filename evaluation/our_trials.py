"""What our recommender tries on 70-80 %: twelve settings around the recipe's defaults."""

from __future__ import annotations

from typing import Any

OUR_TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"pretrain": {"epochs": 40.0}},
    {"pretrain": {"epochs": 80.0}},
    {"pretrain": {"epochs": 40.0, "dropout": 0.3}},
    {"pretrain": {"epochs": 80.0, "dropout": 0.5}},
    {"pretrain": {"epochs": 40.0, "learning_rate": 1e-3}},
    {"pretrain": {"epochs": 40.0, "weight_decay": 0.1}},
    {"pretrain": {"epochs": 40.0}, "online": {"learning_rate": 3e-4}},
    {"pretrain": {"epochs": 40.0}, "online": {"learning_rate": 3e-3}},
    {"pretrain": {"epochs": 40.0}, "online": {"batch_events": 16}},
    {"pretrain": {"epochs": 40.0}, "online": {"batch_events": 256}},
    {"pretrain": {"epochs": 40.0}, "online": {"betas": [0.8, 0.99]}},
)
