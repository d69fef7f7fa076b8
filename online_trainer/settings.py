"""What a trainer is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from recommender.recipe import ONLINE, OnlineRecipe

TrainFrom = Literal["begin", "end"] | dict[int, int]


@dataclass(frozen=True)
class TrainerSettings:
    """One worker.

    Attributes:
        model: the name that releases are published under.
        state: folder of checkpoints, journal and ledger; one trainer at a time.
        train_from: where training begins at the first start, for each partition: events before fill histories only.
            `end` is the log's end at that moment. Later starts go on where they were.
        batch_events: a batch closes at so many waiting records …
        linger_seconds: … or once the oldest has waited so long.
        publish_seconds: a release at most so long after the last, if anything was trained; 0 for never by time.
        publish_events: a release once so many events were trained since the last; 0 for never by count.
        keep_releases: how many of the newest stay in the store, beside the live one and the one before it.
        anchor_every: each so many releases stand alone, those between may be deltas; 1 for none.
        history_events: how many of a user's last events are kept (what masks seen items in the score).
        dedupe_events: event ids remembered, for each partition.
        recipe: how a batch changes the weights.
        stop_at_end: end once everything up to the log's present ends is trained.
    """

    model: str
    state: Path
    train_from: TrainFrom = "end"
    batch_events: int = 64
    linger_seconds: float = 0.2
    publish_seconds: float = 2.0
    publish_events: int = 0
    keep_releases: int = 100
    anchor_every: int = 10
    history_events: int = 1000
    dedupe_events: int = 50_000
    stop_at_end: bool = False
    recipe: OnlineRecipe = ONLINE

    def __post_init__(self) -> None:
        for name in ("batch_events", "keep_releases", "anchor_every", "history_events", "dedupe_events"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: take at least 1")
        for name in ("linger_seconds", "publish_seconds", "publish_events"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: take 0 or more")


def parse_train_from(text: str) -> TrainFrom:
    """`begin`, `end`, or a JSON object of partition → offset. Raises ValueError, saying what to write."""
    if text == "begin":
        return "begin"
    if text == "end":
        return "end"
    try:
        return msgspec.json.decode(text, type=dict[int, int])
    except msgspec.DecodeError as error:
        raise ValueError(f'{text!r} is no start: write begin, end, or offsets such as {{"0": 20111}}') from error


def resolve_train_from(train_from: TrainFrom, begins: Mapping[int, int], ends: Mapping[int, int]) -> dict[int, int]:
    """Partition → offset where training begins.

    Raises:
        ValueError: partitions that are not exactly the topic's, or offsets that the log does not have.
    """
    if train_from == "begin":
        return dict(begins)
    if train_from == "end":
        return dict(ends)
    if train_from.keys() != ends.keys():
        raise ValueError(f"training is to begin in partitions {sorted(train_from)}, the topic has {sorted(ends)}")
    for partition, offset in train_from.items():
        if not begins[partition] <= offset <= ends[partition]:
            raise ValueError(
                f"training is to begin at offset {offset} of partition {partition}, "
                f"which holds {begins[partition]} to {ends[partition]}"
            )
    return dict(train_from)
