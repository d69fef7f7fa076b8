"""`slipstream train-worker` as a user runs it: a process of its own joins a group that has no worker."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from contracts.item import Item
from recommender.initialise import preset_recommender
from recommender.loading import save_recommender
from streams.kafka_log import KafkaEventLog
from tests.integration.clicks import EVENTS, UNKNOWN, event, send
from tests.integration.trainer_group import TrainerGroup

pytestmark = pytest.mark.kafka
UNFIT = 4


def worker(group: TrainerGroup, kafka: str, model_dir: Path, model: str, number: int) -> subprocess.Popen[bytes]:
    (address,) = group.launcher._config.addresses
    command = [
        sys.executable, "-m", "slipstream.cli", "train-worker", "--join", address, "--model", model,
        "--model-dir", str(model_dir), "--kafka", kafka, "--number", str(number), "--linger-seconds", "0.05",
        "--nice", "0", "--log-level", "warning",
    ]  # fmt: skip
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_workers_that_join_from_outside_train_everything_and_end_with_the_group(
    clean_kafka: str, tmp_path: Path
) -> None:
    model_dir = tmp_path / "model"
    save_recommender(preset_recommender("tiny", [Item(item_id=f"i{n}") for n in range(38)], seed=2), model_dir)
    log = KafkaEventLog(clean_kafka, client_id="tests")
    send(log, [event(n) for n in range(EVENTS)])
    log.close()
    group = TrainerGroup(clean_kafka, model_dir, tmp_path, "outside", workers=0)
    stranger = worker(group, clean_kafka, model_dir, "another", 9)
    joined: list[subprocess.Popen[bytes]] = []
    try:
        said = stranger.communicate(timeout=60)[1].decode()
        assert stranger.returncode == UNFIT and "another" in said and "outside" in said, said
        joined = [worker(group, clean_kafka, model_dir, "outside", number) for number in range(2)]
        assert group.finish() == 0
        for one in joined:
            said = one.communicate(timeout=60)[1].decode()
            assert one.returncode == 0, said
    finally:
        group.stop()
        for process in [stranger, *joined]:
            process.kill()
            process.wait()
    assert group.trained() == Counter({f"e{n}" for n in range(EVENTS) if event(n).item_id not in UNKNOWN})
