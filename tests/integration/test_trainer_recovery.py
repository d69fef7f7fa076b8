"""`kill -9` of the real trainer on a real broker: no event lost or trained twice, weights bit-identical."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import topics, wire
from contracts.release import ReleaseAnnouncement
from online_trainer.fault_points import FaultPoint
from online_trainer.ledger import Untrained, read_rows
from releases.fsspec_store import FsspecReleaseStore
from streams.apache_kafka import ApacheKafka
from streams.catch_up import newest_by_key
from streams.event_log import EventLog
from streams.kafka_log import KafkaEventLog
from streams.topics import apply_topics
from tests.integration.clicks import EVENTS, UNKNOWN, event, send, wait_until
from tests.integration.trainer_processes import STATIC, TrainerProcesses

pytestmark = pytest.mark.kafka


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


def releases(trainers: TrainerProcesses, model: str) -> dict[int, dict[str, str]]:
    """Version → tensor → sha256, each verified."""
    store = FsspecReleaseStore(str(trainers.folder / "releases"))
    found = {version: store.read(model, version).manifest for version in store.versions(model)}
    return {v: {name: entry.sha256 for name, entry in m.tensors.items()} for v, m in found.items()}


def announced(log: EventLog, model: str) -> int:
    value = newest_by_key(log, topics.RELEASES)[model.encode()].value
    assert value is not None
    return wire.decode(value, ReleaseAnnouncement).version


KILLED_AT = [
    "start.journal-begun",
    "start.announced",
    "plan.written:2",
    "batch.gradient-ready:5",
    "batch.dead-letter-sent",
    "commit.ledger-synced:3",
    "commit.state-written:2",
    "commit.renamed:3",
    "stop.committed",
]


@pytest.mark.timeout(240)
def test_killed_anywhere_and_started_again_the_trainer_ends_bit_for_bit_where_it_would_have(
    log: KafkaEventLog, trainers: TrainerProcesses
) -> None:
    send(log, [event(n) for n in range(EVENTS // 2)])
    log.produce(topics.EVENTS, b"u1", b"not an event").result(30)
    send(log, [event(5), *(event(n) for n in range(EVENTS // 2, EVENTS))])
    assert trainers.run("calm", *STATIC) == 0, trainers.said("calm")
    calm = releases(trainers, "calm")
    rows = read_rows(trainers.folder / "calm" / "prequential.jsonl")
    unknown = {f"e{n}" for n in range(EVENTS) if event(n).item_id in UNKNOWN}
    trained = Counter(row.event_id for row in rows if row.trained)
    assert trained == Counter({f"e{n}" for n in range(EVENTS)} - unknown)
    assert Counter(row.reason for row in rows if not row.trained) == {
        Untrained.UNKNOWN_ITEM: len(unknown),
        Untrained.DUPLICATE: 1,
        Untrained.UNREADABLE: 1,
    }
    assert len(calm) > 4
    # The last release is the one whose announcement no later one makes up for.
    for fault in [*KILLED_AT, f"publish.stored:{len(calm)}"]:
        name = fault.replace(":", "-")
        assert trainers.run(name, *STATIC, fault=fault) == -signal.SIGKILL, f"{fault} was never reached"
        assert trainers.run(name, *STATIC) == 0, trainers.said(name)
        assert trainers.last_tensors(name) == trainers.last_tensors("calm"), fault
        assert trainers.ledger(name) == trainers.ledger("calm"), fault
        assert releases(trainers, name) == calm, fault
        assert announced(log, name) == max(calm), fault


def test_every_fault_point_is_one_of_the_enum() -> None:
    assert {fault.partition(":")[0] for fault in KILLED_AT} <= set(FaultPoint)


@pytest.mark.timeout(120)
def test_killed_on_a_live_stream_again_and_again_it_repeats_the_batches_that_the_clock_cut(
    log: KafkaEventLog, trainers: TrainerProcesses
) -> None:
    trainers.run_live(lambda: _trickle(log), ("batch.stepped:4", "commit.tensors-written:2", "plan.journalled:6"))
    trained = Counter(row.event_id for row in read_rows(trainers.folder / "live/prequential.jsonl") if row.trained)
    assert trained == Counter(f"e{n}" for n in range(EVENTS) if event(n).item_id not in UNKNOWN)
    trainers.check_repeat("calm")


def _trickle(log: EventLog) -> None:
    for number in range(EVENTS):
        send(log, [event(number)])
        time.sleep(0.02)


@pytest.mark.timeout(120)
def test_a_replaced_trainer_is_fenced_off_and_says_so(log: KafkaEventLog, trainers: TrainerProcesses) -> None:
    flags = ("--train-from", "begin", "--publish-seconds", "0.1", "--linger-seconds", "0.05")
    send(log, [event(n) for n in range(20)])
    old = trainers.start("m", *flags, state="old")
    wait_until(lambda: (trainers.folder / "releases/m/manifests").exists() and len(releases(trainers, "m")) > 1, "v2")
    assert trainers.run("m", *flags, state="old") == 5
    new = trainers.start("m", *flags, state="new")
    epochs = trainers.folder / "releases/m/epochs"
    wait_until(lambda: len(list(epochs.iterdir())) > 1, "the new trainer's epoch")
    send(log, [event(n) for n in range(20, 40)])
    old.join(30)
    assert old.exitcode == 3, trainers.said("m")
    assert "another trainer has taken over" in trainers.said("m")
    wait_until(lambda: trainers.ledger("new").count(b"\n") == 40, "the new trainer's last commit")
    new.terminate()
    new.join(30)
    assert new.exitcode == 0, trainers.said("m")
    store = FsspecReleaseStore(str(trainers.folder / "releases"))
    manifest = store.manifest("m", announced(log, "m"))
    assert manifest.epoch == 2
    assert sum(manifest.offsets.values()) == 40


@pytest.mark.timeout(120)
def test_a_broker_that_is_killed_and_comes_back_costs_no_event_and_no_trainer(
    apache_kafka: ApacheKafka, model_dir: Path, tmp_path: Path
) -> None:
    apply_topics(apache_kafka.bootstrap, replication_factor=1)
    trainers = TrainerProcesses(apache_kafka.bootstrap, model_dir, tmp_path)
    log = KafkaEventLog(apache_kafka.bootstrap, client_id="tests")
    try:
        held = log.end_offsets(log.partitions(topics.EVENTS))  # other tests share this broker
        before = sum(held.values())
        start = json.dumps({partition.partition: offset for partition, offset in held.items()})
        send(log, [event(n) for n in range(30)])
        process = trainers.start("m", "--train-from", start, "--publish-seconds", "0.2")
        wait_until(lambda: _covered(trainers, "m") == before + 30, "a release that covers the first events")
        apache_kafka.kill()
        apache_kafka.start()
        send(log, [event(n) for n in range(30, 60)])
        wait_until(lambda: _covered(trainers, "m") == before + 60, "a release that covers the rest", 60)
        wait_until(lambda: announced(log, "m") == max(releases(trainers, "m")), "its announcement")
        assert process.is_alive(), trainers.said("m")
        rows = read_rows(trainers.folder / "m/prequential.jsonl")
        assert Counter(row.event_id for row in rows) == Counter(f"e{n}" for n in range(60))
    finally:
        trainers.close()
        log.close()


def _covered(trainers: TrainerProcesses, model: str) -> int:
    """Offsets in the newest release."""
    store = FsspecReleaseStore(str(trainers.folder / "releases"))
    versions = store.versions(model)
    return sum(store.manifest(model, versions[-1]).offsets.values()) if versions else 0
