"""`kill -9` of owners and workers on a real broker: every event once, whoever dies when."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import topics, wire
from contracts.event import Event
from contracts.item import Item
from online_trainer.fault_points import FaultPoint
from online_trainer.ledger import Untrained
from releases.fsspec_store import FsspecReleaseStore
from streams.apache_cluster import ApacheKafkaCluster
from streams.event_log import EventLog
from streams.kafka_log import KafkaEventLog
from tests.integration.clicks import EVENTS, UNKNOWN, event, send, wait_until
from tests.integration.trainer_group import TrainerGroup
from tests.kafka_fixtures import kafka_nodes

pytestmark = pytest.mark.kafka
SINGLE = (
    "plan.",
    "round.",
    "items.written",
    "batch.collected",
    "batch.stepped",
    "start.restored",
    "start.announced",
    "commit.old-removed",
)
"""Only a single worker or a synchronous rank passes these, or only a second start does."""
NOT_HERE = ("publish.old-removed", "worker.left")
"""Only a long run passes the one; the other is the end of a worker, and nobody starts it again then."""
GROUP_POINTS = [point for point in FaultPoint if not point.startswith(SINGLE + NOT_HERE)]
SEED = os.environ.get("SLIPSTREAM_FAULT_SEED", "1")
ALL = os.environ.get("SLIPSTREAM_FAULTS", "") == "all"
"""`make test-faults`: every point, and a table of verdicts; `make test` draws six."""
DRAWN = GROUP_POINTS if ALL else sorted(random.Random(SEED).sample(GROUP_POINTS, 6))
LATER = {"owner.": 2, "order.": 3, "worker.": 2, "batch.": 2, "commit.": 2, "publish.": 2}
"""A point of these kinds is met so often before it kills."""
ONCE = frozenset(
    {
        "owner.replayed", "owner.listening", "owner.joined", "owner.welcomed", "owner.weights-sent",
        "owner.handed-over", "owner.moved", "owner.left", "worker.joined", "worker.assigned",
        "worker.weights-taken", "worker.adopted", "worker.undone", "worker.items-known", "batch.dead-letter-sent",
    }
)  # fmt: skip
ANYWHERE = frozenset({"batch.dead-letter-sent", "worker.undone"})
"""Only the worker that holds the record meets these, whichever that is."""
SHARDED = ("shard.", "worker.parts-stored")
"""These are killed in a group of two owners."""


def fill(log: EventLog) -> Counter[str]:
    """An item that the model lacks and nobody takes, and the stream with bad records in it; what must be trained."""
    log.produce(topics.ITEMS, b"i99", wire.encode(Item(item_id="i99", title="New"))).result(30)
    send(log, [event(n) for n in range(EVENTS // 2)])
    log.produce(topics.EVENTS, b"u1", b"not an event").result(30)
    # The same id under another user: another partition, and perhaps another worker.
    again = Event(event_id="e3", event_type="click", user_id="u22", item_id="i5", timestamp=2000.0)
    send(log, [event(5), again, *(event(n) for n in range(EVENTS // 2, EVENTS))])
    return Counter({f"e{n}" for n in range(EVENTS) if event(n).item_id not in UNKNOWN})


@pytest.fixture
def log(clean_kafka: str) -> Iterator[KafkaEventLog]:
    connection = KafkaEventLog(clean_kafka, client_id="tests")
    yield connection
    connection.close()


def verify(group: TrainerGroup, expected: Counter[str]) -> None:
    """Every record once in the ledger, every event once in the weights, the last release covers them all."""
    rows = group.rows()
    assert group.trained() == expected
    assert len({(row.partition, row.offset) for row in rows}) == len(rows) == EVENTS + 3
    reasons = Counter(row.reason for row in rows if not row.trained)
    unknown = sum(event(n).item_id in UNKNOWN for n in range(EVENTS))
    assert reasons == {Untrained.UNKNOWN_ITEM: unknown, Untrained.DUPLICATE: 2, Untrained.UNREADABLE: 1}
    store = FsspecReleaseStore(str(group.releases))
    model = group.state.name
    newest = store.read(model, store.versions(model)[-1]).manifest
    assert sum(newest.offsets.values()) == EVENTS + 3
    assert newest.events_trained == expected.total()
    added = newest.added_items.item_ids if newest.added_items is not None else ()
    assert added == (("i99",) if group.grows else ())


def nth(point: str) -> str:
    kind = point.partition(".")[0] + "."
    return f"{point}:{1 if point in ONCE else LATER.get(kind, 1)}"


@pytest.mark.timeout(120 * kafka_nodes())
@pytest.mark.parametrize("point", DRAWN)
def test_killed_anywhere_a_group_counts_every_event_once(
    point: str, log: KafkaEventLog, clean_kafka: str, model_dir: Path, tmp_path: Path, verdicts: list[str]
) -> None:
    expected = fill(log)
    owners = 2 if point.startswith(SHARDED) else 1
    started = time.monotonic()
    group = TrainerGroup(
        clean_kafka, model_dir, tmp_path, "m", owners=owners, fault=nth(point), everywhere=point in ANYWHERE
    )
    assert group.finish(100) == 0
    assert {code for _, code in group.launcher.deaths} == {-signal.SIGKILL}, f"deaths: {group.launcher.deaths}"
    verify(group, expected)
    killed = group.launcher.deaths[0][0]
    verdicts.append(f"| {nth(point)} | {killed} | {time.monotonic() - started:.1f} | every event once, release whole |")


@pytest.mark.timeout(240)
@pytest.mark.skipif(kafka_nodes() < 3, reason="kills one node of three: make test-faults NODES=3")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_killed_node_of_the_log_costs_no_event_and_no_trainer(
    number: int,
    log: KafkaEventLog,
    clean_kafka: str,
    request: pytest.FixtureRequest,
    model_dir: Path,
    tmp_path: Path,
    verdicts: list[str],
) -> None:
    cluster: ApacheKafkaCluster = request.getfixturevalue("kafka_cluster")
    half = EVENTS // 2
    send(log, [event(n) for n in range(half)])
    started = time.monotonic()
    group = TrainerGroup(
        clean_kafka, model_dir, tmp_path, "m", stop_at_end=False, publish_seconds=0.5, publish_events=0
    )
    try:
        wait_until(lambda: _covered(group) == half, "a release that covers the first half")
        cluster.nodes[number - 1].kill()
        send(log, [event(n) for n in range(half, EVENTS)])
        wait_until(lambda: _covered(group) == EVENTS, "a release that covers what came while the node was away", 45)
    finally:
        cluster.start()
        group.stop()
    assert group.launcher.deaths == []
    assert group.trained() == Counter(f"e{n}" for n in range(EVENTS) if event(n).item_id not in UNKNOWN)
    assert len({(row.partition, row.offset) for row in group.rows()}) == len(group.rows()) == EVENTS
    seconds = time.monotonic() - started
    verdicts.append(f"| kafka.node-{number} | node {number} of 3 | {seconds:.1f} | every event once, nobody died |")


def _covered(group: TrainerGroup) -> int:
    """Offsets in the newest release."""
    store = FsspecReleaseStore(str(group.releases))
    versions = store.versions(group.state.name)
    return sum(store.manifest(group.state.name, versions[-1]).offsets.values()) if versions else 0
