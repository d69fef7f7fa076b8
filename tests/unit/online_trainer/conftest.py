"""A small real model, a log in memory, and a trainer over both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from contracts import topics, wire
from contracts.event import Event
from contracts.item import Item
from online_trainer.metrics import TrainerMetrics
from online_trainer.patience import Patience
from online_trainer.settings import TrainerSettings
from online_trainer.start import start_trainer
from online_trainer.trainer import Trainer
from recommender.initialise import preset_recommender
from recommender.loading import Recommender
from releases import store_watch
from releases.fsspec_store import FsspecReleaseStore
from streams.memory_log import MemoryEventLog, MemoryStore

NUM_ITEMS, NUM_USERS = 30, 9
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def click(number: int, **changes: Any) -> Event:
    """The stream's event of that number: users and items recur, timestamps rise, some share an instant."""
    fields = {
        "event_id": f"e{number}",
        "event_type": "click",
        "user_id": f"u{number * 7 % NUM_USERS}",
        "item_id": f"i{number * 11 % NUM_ITEMS}",
        "timestamp": float(1000 + number // 3),
    }
    return Event(**(fields | changes))


class World:
    """One log and one store, on which trainers come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryStore({topic.name: topic.partitions for topic in topics.TOPICS})
        self.log = MemoryEventLog(self.broker)
        self.store = FsspecReleaseStore(str(folder / "releases"))
        self.metrics = TrainerMetrics()
        self.patience = Patience(self.metrics)
        self._open: list[Trainer] = []

    def send(self, *events: Event) -> None:
        for event in events:
            self.log.produce(topics.EVENTS, event.user_id.encode(), wire.encode(event)).result()

    def send_bytes(self, data: bytes | None, partition: int = 0) -> None:
        self.log.produce(topics.EVENTS, b"k", data, partition=partition).result()

    def trainer(self, state: str = "state", recommender: Recommender | None = None, **settings: Any) -> Trainer:
        """Start a trainer; by default it trains everything and ends at the log's end."""
        chosen: dict[str, Any] = {
            "train_from": "begin",
            "batch_events": 8,
            "publish_seconds": 0.0,
            "publish_events": 24,
            "stop_at_end": True,
        }
        trainer = start_trainer(
            TrainerSettings(model="tiny", state=self.folder / state, **(chosen | settings)),
            recommender or small_model(),
            lambda: MemoryEventLog(self.broker),
            self.store,
            self.metrics,
            self.patience,
        )
        self._open.append(trainer)
        return trainer

    def close(self) -> None:
        for trainer in self._open:
            trainer.close()


def small_model() -> Recommender:
    torch.set_num_threads(1)
    return preset_recommender("tiny", [Item(item_id=f"i{n}") for n in range(NUM_ITEMS)], seed=3)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def run(world: World) -> Iterator[Callable[..., Trainer]]:
    """Start a trainer, run it to the log's end and close it; returns it for looking at."""

    def to_the_end(**settings: Any) -> Trainer:
        trainer = world.trainer(**settings)
        try:
            trainer.run()
        finally:
            trainer.close()
        return trainer

    yield to_the_end


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that can't be reached is asked again at once, nearly."""
    monkeypatch.setattr(store_watch, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(store_watch, "_LONGEST_PAUSE_SECONDS", 0.02)
