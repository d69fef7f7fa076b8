"""Starting and ending brokers. Tansu starts in milliseconds."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from streams.apache_kafka import ApacheKafka
from streams.broker import BrokerFailed, TansuBroker
from streams.kafka_log import KafkaEventLog
from streams.topics import apply_topics

pytestmark = pytest.mark.kafka


def test_tansu_serves_and_ends(tmp_path: Path) -> None:
    with TansuBroker(tmp_path / "tansu.log") as broker:
        pid = broker.pid
        apply_topics(broker.bootstrap)
        log = KafkaEventLog(broker.bootstrap)
        assert len(log.partitions("rec.interactions.events.v1")) == 4
        log.close()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert broker.pid is None
    broker.stop()
    assert (tmp_path / "tansu.log").stat().st_size > 0


def test_a_port_that_is_taken_is_a_failure_with_the_brokers_own_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        broker = TansuBroker(tmp_path / "tansu.log", port=taken.getsockname()[1])
        with pytest.raises(BrokerFailed, match=r"tansu\.log"):
            broker.start(timeout_seconds=2.0)
    assert broker.pid is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_tansu_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from streams.broker import TansuBroker\n"
        "broker = TansuBroker(Path(sys.argv[1])); broker.start(); print(broker.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "tansu.log")], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the broker is an orphan"
        time.sleep(0.01)


def test_a_folder_without_jars_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BrokerFailed, match=r"mvn -f deploy/kafka/pom\.xml package"):
        ApacheKafka(tmp_path, tmp_path / "data")


def test_no_java_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.3.1.jar").touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(BrokerFailed, match="install Java 17"):
        ApacheKafka(tmp_path, tmp_path / "data")
