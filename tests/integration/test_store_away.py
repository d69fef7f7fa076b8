"""Trainers as users run them, on a bucket that is away when they start and goes away again: they wait, and train on."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from online_trainer.ledger import read_rows
from releases.fsspec_store import FsspecReleaseStore
from streams.broker import free_port
from streams.kafka_log import KafkaEventLog
from tests.integration.clicks import event, send, wait_until
from tests.s3_server import S3Server

pytestmark = pytest.mark.kafka
KNOWN = [n for n in range(200) if event(n).item_id not in ("i38", "i39")]
"""Events of items that the model knows: each is trained."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    folder = tmp_path / "s3"
    (folder / "bucket").mkdir(parents=True)
    found = S3Server(folder)
    yield found
    found.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "group", [(), ("--workers", "2", "--owners", "2"), ("--workers", "2", "--exchange", "sync")], ids=str
)
def test_a_trainer_waits_out_a_bucket_that_is_away(
    group: tuple[str, ...],
    server: S3Server,
    clean_kafka: str,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    port, said = free_port(), tmp_path / "log"
    arguments = [
        "train", "--model", "m", "--model-dir", model_dir, "--kafka", clean_kafka, "--releases", "s3://bucket/root",
        "--state", tmp_path / "m", "--train-from", "begin", "--publish-seconds", "0.3", "--nice", "0",
        "--metrics-port", port, "--log-level", "warning", *group,
    ]  # fmt: skip
    log = KafkaEventLog(clean_kafka, client_id="tests")
    send(log, [event(n) for n in KNOWN[:60]])
    store = FsspecReleaseStore("s3://bucket/root", **server.options)

    def covered() -> int:
        versions = store.versions("m")
        return store.manifest("m", versions[-1]).events_trained if versions else 0

    def trained() -> int:
        ledgers = [tmp_path / "m/prequential.jsonl", *(tmp_path / "m").glob("rank-*/prequential.jsonl")]
        return sum(row.trained for ledger in ledgers if ledger.exists() for row in read_rows(ledger))

    def metric(name: str) -> float:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])

    with said.open("wb") as output:
        command = [sys.executable, "-m", "slipstream.cli", *map(str, arguments)]
        trainer = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "store_unavailable" in said.read_text(), "its start waits", 60)
        server.start()
        wait_until(lambda: covered() == 60, "a release of what lay there")
        server.stop()
        send(log, [event(n) for n in KNOWN[60:120]])
        wait_until(lambda: trained() == 120, "training goes on")
        wait_until(lambda: metric("slipstream_trainer_store_up") == 0, "the metric")
        send(log, [event(n) for n in KNOWN[120:]])
        wait_until(lambda: trained() == len(KNOWN), "training goes on after a refused release")
        assert metric("slipstream_trainer_store_unavailable_total") >= 2
        server.start()
        wait_until(lambda: covered() == len(KNOWN), "one release of all that waited")
        wait_until(lambda: metric("slipstream_trainer_store_up") == 1, "the metric, once it is announced")
        trainer.terminate()
        assert trainer.wait(30) == 0
    finally:
        trainer.kill()
        trainer.wait()
        log.close()
    text = said.read_text()
    assert text.count("store_unavailable") == text.count("store_back") == 2, text
    assert "process_died" not in text and "Traceback" not in text, text
