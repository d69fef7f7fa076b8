"""A synchronous group of real processes on a real broker: `kill -9` of a rank changes no bit of what it would be."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from online_trainer.checkpoint import Checkpoints
from online_trainer.exchange.messages import Rule
from online_trainer.fault_points import FaultPoint
from online_trainer.ledger import read_rows
from recommender.recipe import ONLINE
from releases.fsspec_store import FsspecReleaseStore
from slipstream.train_group import RANK_LOST
from streams.broker import free_port
from streams.kafka_log import KafkaEventLog
from tests.integration.clicks import EVENTS, event, send, wait_until
from tests.integration.test_trainer_group import ALL, SEED, fill, log, nth, verify
from tests.integration.trainer_group import TrainerGroup
from tests.kafka_fixtures import kafka_nodes

__all__ = ["log"]
pytestmark = pytest.mark.kafka
NOT_HERE = ("items.", "order.", "owner.", "shard.", "worker.", "publish.old-removed", "start.restored")
RANK_POINTS = [point for point in FaultPoint if not point.startswith(NOT_HERE)]
DRAWN = RANK_POINTS if ALL else sorted(random.Random(SEED).sample(RANK_POINTS, 2))
WRITERS = ("start.epoch-acquired", "publish.")
"""Rank 0 alone passes these; at the others it is another rank that dies."""
COMPRESSED = Rule(average=ONLINE.average)


def weights(group: TrainerGroup) -> list[dict[str, bytes]]:
    """Each rank's last checkpoint, tensor by tensor, but for what is a rank's own."""
    found = []
    for folder in sorted(group.state.glob("rank-*")):
        newest = Checkpoints(folder / "checkpoints").newest()
        assert newest is not None
        own = ("residual.", "random.")
        found.append({name: t.numpy().tobytes() for name, t in newest[1].items() if not name.startswith(own)})
    return found


def repeat(group: TrainerGroup, kafka: str, model_dir: Path, folder: Path, rule: Rule) -> TrainerGroup:
    """Another group that does what the journals of `group` say, undisturbed."""
    for journal in group.state.glob("rank-*/journal.jsonl"):
        target = folder / "calm" / journal.parent.name
        target.mkdir(parents=True)
        # Its own name stands in the first line.
        (target / journal.name).write_text(journal.read_text().replace('"model":"m"', '"model":"calm"', 1))
    calm = TrainerGroup(kafka, model_dir, folder, "calm", synchronous=True, rule=rule)
    assert calm.finish() == 0
    assert calm.launcher.deaths == []
    return calm


@pytest.mark.timeout(120 * kafka_nodes())
@pytest.mark.parametrize("point", DRAWN)
def test_a_rank_killed_anywhere_changes_no_bit(
    point: str, log: KafkaEventLog, clean_kafka: str, model_dir: Path, tmp_path: Path, verdicts: list[str]
) -> None:
    expected = fill(log)
    started = time.monotonic()
    everywhere = point == "batch.dead-letter-sent"
    group = TrainerGroup(
        clean_kafka, model_dir, tmp_path, "m", fault=nth(point), synchronous=True, everywhere=everywhere,
        rule=COMPRESSED, victim=0 if point.startswith(WRITERS) else 1,
    )  # fmt: skip
    assert group.finish(100) == 0
    codes = {code for _, code in group.launcher.deaths}
    assert -signal.SIGKILL in codes and codes <= {-signal.SIGKILL, RANK_LOST}, f"deaths: {group.launcher.deaths}"
    verify(group, expected)
    calm = repeat(group, clean_kafka, model_dir, tmp_path, COMPRESSED)
    assert calm.rows() == group.rows()
    one, other = weights(group)
    assert one == other == weights(calm)[0] == weights(calm)[1]
    seconds = time.monotonic() - started
    verdicts.append(f"| {nth(point)} | rank of a synchronous group | {seconds:.1f} | bit-identical, every event once |")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "rule",
    [
        Rule(average=ONLINE.average, compressed=False),
        Rule(average=ONLINE.average, choose=True),
        Rule(average=ONLINE.average, local_steps=3, fragments=2),
    ],
    ids=["dense", "chosen", "local steps"],
)
def test_ranks_hold_the_same_weights_and_train_every_event_once(
    rule: Rule, log: KafkaEventLog, clean_kafka: str, model_dir: Path, tmp_path: Path
) -> None:
    expected = fill(log)
    group = TrainerGroup(clean_kafka, model_dir, tmp_path, "m", synchronous=True, rule=rule)
    assert group.finish() == 0
    assert group.launcher.deaths == []
    verify(group, expected)
    found = weights(group)
    shared = [{name: data for name, data in one.items() if not name.startswith("optimizer.")} for one in found]
    assert shared[0] == shared[1]
    if rule.local_steps == 1:
        assert found[0] == found[1]


@pytest.mark.timeout(120)
def test_the_command_trains_a_live_stream_and_refuses_another_number_of_workers(
    log: KafkaEventLog, clean_kafka: str, model_dir: Path, tmp_path: Path
) -> None:
    port = free_port()
    arguments = [
        "train", "--model", "m", "--model-dir", model_dir, "--kafka", clean_kafka, "--releases", tmp_path / "releases",
        "--state", tmp_path / "m", "--train-from", "begin", "--exchange", "sync", "--publish-seconds", "0.3",
        "--nice", "0",
    ]  # fmt: skip
    command = [sys.executable, "-m", "slipstream.cli", *map(str, arguments)]
    live = subprocess.Popen([*command, "--workers", "2", "--metrics-port", str(port)])
    store = FsspecReleaseStore(str(tmp_path / "releases"))
    try:
        for number in range(EVENTS):
            send(log, [event(number)])
            time.sleep(0.01)

        def covered() -> int:
            versions = store.versions("m")
            return sum(store.manifest("m", versions[-1]).offsets.values()) if versions else 0

        wait_until(lambda: covered() == EVENTS, "a release that covers every event", 60)
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        live.terminate()
        assert live.wait(30) == 0
    finally:
        live.kill()
    ledgers = sorted((tmp_path / "m").glob("rank-*/prequential.jsonl"))
    rows = [row for ledger in ledgers for row in read_rows(ledger)]
    assert Counter(row.event_id for row in rows) == Counter(f"e{number}" for number in range(EVENTS))
    trained = sum(row.trained for row in rows)
    assert f"slipstream_trainer_examples_total {float(trained)}" in metrics
    assert f'slipstream_trainer_untrained_total{{reason="unknown_item"}} {float(EVENTS - trained)}' in metrics
    assert 'slipstream_exchange_compute_seconds_total{worker="worker-1"}' in metrics
    three = subprocess.run([*command, "--workers", "3"], capture_output=True, text=True, timeout=60)
    assert three.returncode == 4 and "start as many workers as before" in three.stderr
