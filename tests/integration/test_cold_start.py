"""New items and new users on the running system: recommended without any restart, and bit-identical through kills."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from contracts import topics, wire
from contracts.item import Item
from online_trainer.ledger import read_rows
from recommender.initialise import preset_recommender
from recommender.loading import save_recommender
from releases.fsspec_store import FsspecReleaseStore
from slipstream.processes import Supervisor
from streams.broker import free_port
from streams.event_log import EventLog
from streams.kafka_log import KafkaEventLog
from tests.integration.clicks import EVENTS, UNKNOWN, event, send
from tests.integration.gateway.world import Answered, call, until
from tests.integration.trainer_processes import STATIC, TrainerProcesses

pytestmark = pytest.mark.kafka
BORN = "newborn"


def item(number: int) -> Item:
    return Item(item_id=f"i{number}", title=f"Part {number % 7}", categories=(f"c{number % 3}",))


def post(log: EventLog, *items: Item) -> None:
    for future in [log.produce(topics.ITEMS, one.item_id.encode(), wire.encode(one)) for one in items]:
        future.result(30)


@pytest.fixture
def log(clean_kafka: str) -> Iterator[KafkaEventLog]:
    connection = KafkaEventLog(clean_kafka, client_id="tests")
    yield connection
    connection.close()


@pytest.fixture
def trainers(clean_kafka: str, model_dir: Path, tmp_path: Path) -> Iterator[TrainerProcesses]:
    processes = TrainerProcesses(clean_kafka, model_dir, tmp_path)
    yield processes
    processes.close()


def releases(trainers: TrainerProcesses, model: str) -> dict[int, Any]:
    """Version → its tensors' checksums and its items, each verified."""
    store = FsspecReleaseStore(str(trainers.folder / "releases"))
    found = {version: store.read(model, version).manifest for version in store.versions(model)}
    return {
        version: (manifest.added_items, {name: entry.sha256 for name, entry in manifest.tensors.items()})
        for version, manifest in found.items()
    }


KILLED_AT = [
    "items.chosen",
    "items.written",
    "items.journalled",
    "items.added",
    "plan.journalled",
    "commit.state-written:2",
    "publish.stored:3",
]


@pytest.mark.timeout(240)
def test_killed_around_the_adding_the_trainer_ends_bit_for_bit_where_it_would_have(
    log: KafkaEventLog, trainers: TrainerProcesses
) -> None:
    post(log, *map(item, range(40)))
    send(log, [event(n) for n in range(EVENTS)])
    assert trainers.run("calm", *STATIC) == 0, trainers.said("calm")
    calm = releases(trainers, "calm")
    added, _ = calm[max(calm)]
    assert added is not None
    assert added.item_ids == UNKNOWN
    assert all(row.trained for row in read_rows(trainers.folder / "calm" / "prequential.jsonl"))
    for fault in KILLED_AT:
        name = fault.replace(":", "-")
        assert trainers.run(name, *STATIC, fault=fault) == -signal.SIGKILL, f"{fault} was never reached"
        assert trainers.run(name, *STATIC) == 0, trainers.said(name)
        assert trainers.last_tensors(name) == trainers.last_tensors("calm"), fault
        assert trainers.ledger(name) == trainers.ledger("calm"), fault
        assert releases(trainers, name) == calm, fault


@pytest.mark.timeout(120)
def test_items_born_on_a_live_stream_are_added_again_where_they_were(
    log: KafkaEventLog, trainers: TrainerProcesses
) -> None:
    trainers.run_live(lambda: _trickle(log), ("items.journalled", "items.added", "batch.stepped:4"))
    # The items topic says something else by now, and the repeat must not mind.
    post(log, *(Item(item_id=f"i{n}", title="Renamed") for n in range(40)))
    trainers.check_repeat("again")
    rows = read_rows(trainers.folder / "live/prequential.jsonl")
    reasons = [row.reason for row in rows if row.item_id == UNKNOWN[0]]
    assert None in reasons, "trained once it was born"


def _trickle(log: EventLog) -> None:
    """Events, and within them the births of the two items that the model lacks."""
    for number in range(EVENTS):
        send(log, [event(number)])
        if number in (60, 120):
            post(log, item(38 + number // 60 - 1))
        time.sleep(0.02)


@dataclass
class Live:
    """A gateway, a replica and a trainer as processes, and what they were given."""

    supervisor: Supervisor
    url: str
    log: KafkaEventLog

    def recommend(self, user: str, **options: Any) -> Answered:
        return call("POST", f"{self.url}/v1/recommendations", {"user_id": user, **options})

    def click(self, name: str, user: str, item_id: str) -> None:
        body = {"event_id": name, "event_type": "click", "user_id": user, "item_id": item_id, "timestamp": time.time()}
        assert call("POST", f"{self.url}/v1/events", {"events": [body]}).status == 202


@pytest.fixture
def live(clean_kafka: str, log: KafkaEventLog, tmp_path: Path, train_flags: tuple[str, ...]) -> Iterator[Live]:
    items = [item(n) for n in range(30)]
    save_recommender(preset_recommender("tiny", items, seed=1), tmp_path / "model")
    post(log, *items)
    gateway, replica = free_port(), free_port()
    supervisor = Supervisor(tmp_path / "logs")
    common = ["--kafka", clean_kafka]
    model = ["--model", "m", "--model-dir", str(tmp_path / "model"), "--releases", str(tmp_path / "releases"), *common]
    one_thread = {"OMP_NUM_THREADS": "1"}
    learning = ["--state", str(tmp_path / "state"), "--train-from", "begin", "--nice", "0", "--publish-seconds", "0.5"]
    learning += ["--learning-rate", "0.003", *train_flags]
    try:
        supervisor.start("trainer", ["train", *model, *learning], env=one_thread)
        supervisor.start("replica", ["serve", "--engine", "torch", *model, "--port", str(replica)], env=one_thread)
        supervisor.start(
            "gateway", ["gateway", *common, "--port", str(gateway), "--replica", f"http://127.0.0.1:{replica}"]
        )
        world = Live(supervisor, f"http://127.0.0.1:{gateway}", log)
        until(lambda: supervisor.check() or call("GET", f"{world.url}/readyz").status == 200, "the gateway")
        yield world
    finally:
        supervisor.stop_all()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("train_flags", [(), ("--workers", "2", "--compress")], ids=["one trainer", "two workers"])
def test_an_item_that_is_born_comes_to_be_recommended_and_nothing_is_restarted(
    live: Live, train_flags: tuple[str, ...]
) -> None:
    for number in range(3):
        live.click(f"fan-{number}", "fan", f"i{number}")
    first = live.recommend("fan", num_results=30)
    assert first.body["fallback"] is None, "a new user is known from the first event on"
    assert BORN not in [found["item_id"] for found in first.body["items"]]

    posted_at = time.monotonic()
    post(live.log, Item(item_id=BORN, title="Part 6", categories=("c2",)))
    as_candidate = until(
        lambda: live.supervisor.check() or _by_model(live.recommend("fan", candidates=[BORN])), "the candidate"
    )
    print(f"{time.monotonic() - posted_at:.2f} s from the item's snapshot to a candidate of the model")
    assert [found["item_id"] for found in as_candidate] == [BORN]
    assert call("GET", f"{live.url}/v1/items/{BORN}").body["title"] == "Part 6"

    clicks = iter(range(10_000))

    def clicked_until_listed() -> bool:
        user = f"u{next(clicks)}"
        for number in range(3):
            live.click(f"{user}-{number}", user, f"i{number}")
        live.click(f"{user}-born", user, BORN)
        live.supervisor.check()
        listed = _by_model(live.recommend("fan", num_results=5))
        return BORN in [found["item_id"] for found in listed or []]

    until(clicked_until_listed, "the newborn among the fan's first five", 120)
    live.supervisor.check()


def _by_model(answer: Answered) -> list[dict[str, Any]] | None:
    """What the model lists; None while it lists nothing, or another has answered."""
    return answer.body["items"] or None if answer.status == 200 and answer.body["fallback"] is None else None
