"""An owner and workers as threads of this process, over loopback sockets and a log in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import zmq

from contracts import topics, wire
from contracts.event import Event
from contracts.item import Item
from online_trainer.exchange.link import listen
from online_trainer.exchange.messages import Rule
from online_trainer.exchange.sequencer import GroupSettings
from online_trainer.exchange.serve import serve
from online_trainer.exchange.shard import ShardOwner, serve_shard
from online_trainer.exchange.start import OwnerProcess, start_owner, start_shard, start_worker
from online_trainer.exchange.worker import Worker
from online_trainer.ledger import LedgerRow, read_rows
from online_trainer.metrics import TrainerMetrics
from online_trainer.patience import Patience
from online_trainer.settings import TrainerSettings
from recommender.initialise import preset_recommender
from recommender.loading import Recommender
from recommender.recipe import ONLINE
from releases.fsspec_store import FsspecReleaseStore
from streams.broker import free_port
from streams.memory_log import MemoryEventLog, MemoryStore

NUM_ITEMS = 30
RECIPE = msgspec.structs.replace(ONLINE, replay_windows=4)


def click(number: int, **changes: Any) -> Event:
    """The stream's event of that number: users and items recur, timestamps rise."""
    fields = {
        "event_id": f"e{number}",
        "event_type": "click",
        "user_id": f"u{number * 7 % 19}",
        "item_id": f"i{number * 11 % NUM_ITEMS}",
        "timestamp": float(1000 + number),
    }
    return Event(**(fields | changes))


def small_model() -> Recommender:
    torch.set_num_threads(1)
    return preset_recommender("tiny", [Item(item_id=f"i{n}") for n in range(NUM_ITEMS)], seed=3)


class Thread(threading.Thread):
    """Keeps what its target raised."""

    def __init__(self, target: Any, *args: Any) -> None:
        super().__init__(daemon=True)
        self._work = (target, args)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._work[0](*self._work[1])
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            self.error = error

    def finish(self, seconds: float = 60) -> None:
        """Wait for its end; raise what it raised."""
        self.join(seconds)
        assert not self.is_alive(), "still runs"
        if self.error is not None:
            raise self.error


class Group:
    """One log and one store, on which owners and workers come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryStore({topic.name: topic.partitions for topic in topics.TOPICS})
        self.log = MemoryEventLog(self.broker)
        self.store = FsspecReleaseStore(str(folder / "releases"))
        self.address = "tcp://127.0.0.1:0"
        self.metrics = TrainerMetrics()
        self.owner_patience = Patience(self.metrics)
        self.process: OwnerProcess | None = None
        self.shards: list[ShardOwner] = []

    def send(self, *events: Event) -> None:
        for event in events:
            self.log.produce(topics.EVENTS, event.user_id.encode(), wire.encode(event)).result()

    def settings(self, **changes: Any) -> TrainerSettings:
        chosen: dict[str, Any] = {
            "model": "tiny", "state": self.folder / "state", "train_from": "begin", "batch_events": 8,
            "linger_seconds": 0.05, "publish_seconds": 0.0, "publish_events": 50, "stop_at_end": True,
            "recipe": RECIPE,
        }  # fmt: skip
        return TrainerSettings(**(chosen | changes))

    def shard(self, number: int, rule: Rule, addresses: list[str], **changes: Any) -> Thread:
        """Start the owner of another shard."""
        socket, _ = listen(zmq.Context.instance(), addresses[number], None)
        owner = start_shard(
            number, self.settings(**changes), rule, small_model(), addresses, None,
            lambda sender, frames: socket.send_multipart([sender, *frames]),
        )  # fmt: skip
        self.shards.append(owner)

        def run() -> None:
            try:
                serve_shard(owner, socket, Patience(TrainerMetrics()))
            finally:
                socket.close(0)

        thread = Thread(run)
        thread.start()
        return thread

    def owner(
        self, rule: Rule | None = None, group: GroupSettings | None = None, owners: int = 1, **changes: Any
    ) -> Thread:
        """Start owner 0, and the others; `address` is where it listens, then."""
        self.metrics = TrainerMetrics()
        self.owner_patience = Patience(self.metrics)
        context = zmq.Context.instance()
        socket, self.address = listen(context, self.address, None)
        chosen = rule or Rule(average=RECIPE.average)
        addresses = [self.address, *(f"tcp://127.0.0.1:{free_port()}" for _ in range(1, owners))]
        process = self.process = start_owner(
            self.settings(**changes), group or GroupSettings(batch_events=8), chosen, small_model(),
            lambda: MemoryEventLog(self.broker), self.store, self.metrics, self.owner_patience,
            lambda sender, frames: socket.send_multipart([sender, *frames]), addresses,
        )  # fmt: skip
        for number in range(1, owners):
            self.shard(number, chosen, addresses, **changes)

        def run() -> None:
            try:
                serve(process, socket, self.owner_patience)
            finally:
                socket.close(0)
                process.close()

        thread = Thread(run)
        thread.start()
        return thread

    def worker(self, name: str, number: int = 0, **changes: Any) -> tuple[Worker, Thread, Patience]:
        """Start a worker."""
        metrics = TrainerMetrics()
        patience = Patience(metrics)
        slow_down = changes.pop("slow_down", 1.0)
        worker = start_worker(
            name, number, self.settings(**changes), small_model(), lambda: MemoryEventLog(self.broker), self.address,
            None, metrics, patience, slow_down,
        )  # fmt: skip
        thread = Thread(worker.run)
        thread.start()
        return worker, thread, patience

    def rows(self) -> list[LedgerRow]:
        return read_rows(self.folder / "state/prequential.jsonl")

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    yield Group(tmp_path)
