"""What our recommender tries on 70-80 %: six settings of a stream for each data set, six of leave-one-out.

The ablations over all four sets say where to look (benchmarks/2026-11-24-recipe-four-sets.md and -recipe-copying.md,
2026-11-27-own-frequency.md): latest-small wants many small steps, Online Retail a wide model that is asked for whole
baskets and starts by copying them loudly, Sports few epochs and new events that weigh more.
"""

from __future__ import annotations

from typing import Any

from catalogue.datasets import Dataset
from evaluation.choices import Protocol

Settings = dict[str, Any]

_QUIET: Settings = {"copying": 0.7}
_LOUD: Settings = {"copying": 2.0}
_MASKED: Settings = {"mask_seen": True}
_OPEN: Settings = {"mask_seen": False}
_IMPRINTED: Settings = {"imprint": 0.35, "imprint_below": 20}
_MUCH_REPLAY: Settings = {
    "batch_events": 16,
    "learning_rate": 2e-3,
    "replay_windows": 64,
    "event_weight": 0.5 / 16,
    "average": 0.99,
    **_MASKED,
    **_IMPRINTED,
}
_SMALL_STEPS: Settings = {**_MUCH_REPLAY, "batch_events": 8, "replay_windows": 32, "event_weight": 0.5 / 8}
_SLOWLY: Settings = {"replay_windows": 64, "learning_rate": 5e-4, "average": 0.99, **_MASKED, **_IMPRINTED}
_SMALL_AND_SLOW: Settings = {**_MUCH_REPLAY, "learning_rate": 5e-4}
_EVENTS_FIRST: Settings = {
    "whole_windows": False,
    "replay_windows": 32,
    "learning_rate": 1e-3,
    "event_weight": 2 / 64,
    "average": 0.98,
    **_IMPRINTED,
    "imprint": 0.7,
}

_SITTINGS: tuple[Settings, ...] = (
    {"model": _LOUD, "pretrain": _MASKED, "online": _SMALL_AND_SLOW},
    {"model": _QUIET, "pretrain": _MASKED, "online": _MUCH_REPLAY},
    {"model": _QUIET, "pretrain": _MASKED, "online": _SLOWLY},
    {"model": _LOUD, "pretrain": _MASKED, "online": _MUCH_REPLAY},
    {"model": _LOUD, "pretrain": _MASKED, "online": _SMALL_STEPS},
    {
        "model": {"preset": "medium", **_LOUD},
        "pretrain": {"learning_rate": 1e-3, "dropout": 0.3, **_MASKED},
        "online": {**_MUCH_REPLAY, "learning_rate": 1e-3},
    },
)
"""People stay for a sitting: MovieLens."""


def _rare(
    epochs: float, dropout: float, copying: float, weight: float = 2.0, masked: bool = True, preset: str = "tiny"
) -> Settings:
    return {
        "model": {"preset": preset, "copying": copying},
        "pretrain": {"epochs": epochs, "batch_rows": 128, "dropout": dropout, "mask_seen": masked},
        "online": {**_EVENTS_FIRST, "event_weight": weight / 64, "mask_seen": masked},
    }


_RARE_EVENTS: tuple[Settings, ...] = (
    _rare(10.0, 0.4, 1.4, preset="medium"),
    _rare(10.0, 0.2, 0.7, masked=False),
    _rare(10.0, 0.2, 2.0),
    _rare(10.0, 0.3, 1.4),
    _rare(10.0, 0.2, 1.4, weight=4.0),
    _rare(30.0, 0.3, 0.7),
)
"""A few events of each person, a day apart or more: Amazon Sports."""


def _baskets(
    preset: str, copying: float, epochs: float, rate: float, dropout: float = 0.3, popular: float = 30.0
) -> Settings:
    return {
        "model": {"preset": preset, "copying": copying, "popular": popular},
        "pretrain": {
            "epochs": epochs,
            "batch_rows": 32,
            "learning_rate": rate,
            "dropout": dropout,
            "whole_block_share": 1.0,
            **_OPEN,
        },
        "online": {
            "whole_windows": False,
            "learning_rate": rate,
            "replay_windows": 32,
            "average": 0.98,
            **_OPEN,
            **_IMPRINTED,
        },
    }


_BASKETS: tuple[Settings, ...] = (
    _baskets("wide", 0.7, 8.0, 1e-3, popular=0.0),
    _baskets("wide", 4.0, 8.0, 1e-3),
    _baskets("broad", 4.0, 4.0, 5e-4),
    _baskets("broad", 8.0, 4.0, 2e-4),
    _baskets("broad", 8.0, 4.0, 5e-4, dropout=0.5),
    _baskets("broad", 8.0, 2.0, 1e-4, dropout=0.1),
)
"""Baskets, and the same things again: Online Retail."""

_LEAVE_ONE_OUT: tuple[Settings, ...] = (
    {"model": _QUIET, "pretrain": {"dropout": 0.3, **_OPEN}},
    {"model": _LOUD, "pretrain": {"epochs": 40.0, "dropout": 0.5, **_MASKED}},
    {"model": _QUIET, "pretrain": {"epochs": 30.0, "batch_rows": 128, "dropout": 0.3, **_OPEN}},
    {"model": _LOUD, "pretrain": {"epochs": 30.0, "batch_rows": 128, "dropout": 0.3, **_MASKED}},
    {
        "model": {"preset": "medium", **_QUIET},
        "pretrain": {"epochs": 40.0, "batch_rows": 128, "learning_rate": 1e-3, "dropout": 0.3, **_MASKED},
    },
    {
        "model": {"preset": "medium", **_QUIET},
        "pretrain": {"epochs": 60.0, "batch_rows": 128, "learning_rate": 1e-3, "dropout": 0.5, **_MASKED},
    },
)

_LEAVE_ONE_OUT_RARE: tuple[Settings, ...] = (
    {"model": _QUIET, "pretrain": {"epochs": 20.0, "batch_rows": 128, "dropout": 0.3, **_OPEN}},
    {"model": _LOUD, "pretrain": {"epochs": 20.0, "batch_rows": 128, "dropout": 0.3, **_MASKED}},
    {"model": _QUIET, "pretrain": {"epochs": 40.0, "batch_rows": 128, "dropout": 0.5, **_MASKED}},
    {
        "model": {"preset": "medium", **_LOUD},
        "pretrain": {"epochs": 20.0, "batch_rows": 128, "learning_rate": 1e-3, "dropout": 0.3, **_MASKED},
    },
    {
        "model": {"preset": "medium", **_QUIET},
        "pretrain": {"epochs": 30.0, "batch_rows": 128, "learning_rate": 1e-3, "dropout": 0.5, **_MASKED},
    },
    {
        "model": {"preset": "medium", **_QUIET},
        "pretrain": {"epochs": 60.0, "batch_rows": 128, "learning_rate": 1e-3, "dropout": 0.5, **_OPEN},
    },
)


def our_trials(dataset: Dataset, protocol: Protocol) -> tuple[Settings, ...]:
    """Settings of `Ours`, as many as each loss of SASRec has."""
    rare = dataset.name.startswith("amazon")
    if protocol == "leave-one-out":
        return _LEAVE_ONE_OUT_RARE if rare else _LEAVE_ONE_OUT
    if dataset.repeats:
        return _BASKETS
    return _RARE_EVENTS if rare else _SITTINGS
