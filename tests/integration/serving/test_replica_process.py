"""`slipstream serve` as a process: it reaches the live version, swaps, drains, and leaves nothing behind.

Each layout is started once. The oracle is plain PyTorch in this process.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2
import psutil
import pytest

from contracts.release import LiveVersion, ReleaseAnnouncement, live_key
from contracts.replica import RankAnswer, RankRequest, ReplicaState, ReplicaStatus, SwapReport
from contracts.topics import RELEASES
from contracts.wire import decode, encode
from recommender.loading import load_recommender
from recommender.scoring import score_histories
from releases.fsspec_store import FsspecReleaseStore
from streams.kafka_log import KafkaEventLog
from tests.serving_worlds import MODEL, histories, manifest_of, tensors_of, write_recommenders

pytestmark = [pytest.mark.kafka, pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(240)]
START_SECONDS = 150.0
TOLERANCE = 1e-4
T = TypeVar("T")


class World:
    """Releases 1, 2 and 3 in a store, 2 of them live, and a broker that says so."""

    def __init__(self, directory: Path, kafka: str) -> None:
        self.model_dirs = write_recommenders(directory / "models", 3)
        self.releases = directory / "releases"
        self.kafka = kafka
        store = FsspecReleaseStore(str(self.releases))
        epoch = store.acquire_epoch(MODEL)
        for version, model_dir in enumerate(self.model_dirs, start=1):
            tensors = tensors_of(model_dir)
            sha256 = store.publish(manifest_of(tensors, version, epoch), tensors)
        announced = ReleaseAnnouncement(model=MODEL, version=3, epoch=epoch, manifest_sha256=sha256)
        live = LiveVersion(model=MODEL, version=2, committed_at=time.time())
        log = KafkaEventLog(kafka)
        for key, message in ((MODEL, announced), (live_key(MODEL), live)):
            log.produce(RELEASES, key.encode(), encode(message)).result(30)
        log.close()

    @contextmanager
    def replica(self, *options: str) -> Iterator[ReplicaProcess]:
        """A running replica, ready."""
        place = ["--model", MODEL, "--model-dir", str(self.model_dirs[0]), "--releases", str(self.releases)]
        process = ReplicaProcess([*place, "--kafka", self.kafka, *options])
        try:
            process.wait_until_ready()
            yield process
        finally:
            process.end()

    def agrees(self, answer: RankAnswer, history: list[str]) -> bool:
        """Whether the oracle gives each item of the answer the same score, and no other item a better one."""
        oracle = load_recommender(self.model_dirs[answer.model_version - 1])
        scores = score_histories(oracle, [history])[0].clone()
        index = oracle.vocabulary.index
        scores[[index[item] for item in history if item in index]] = -float("inf")
        best = scores.sort(descending=True).values[: len(answer.items)]
        found = [float(scores[index[item.item_id]]) for item in answer.items]
        return all(
            abs(item.score - float(want)) < TOLERANCE and abs(score - float(want)) < TOLERANCE
            for item, score, want in zip(answer.items, found, best, strict=True)
        )


class ReplicaProcess:
    """The process, and its API."""

    def __init__(self, options: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "slipstream.cli", "serve", "--port", str(port), *options]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `end`)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(command, env=environment, stderr=self._log)
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.family: list[psutil.Process] = []

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            assert self.popen.poll() is None, self.log()
            assert time.monotonic() < deadline, "the replica did not become ready"
            time.sleep(0.1)
        root = psutil.Process(self.popen.pid)
        self.family = [root, *root.children(recursive=True)]

    def _ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def rank(self, history: list[str]) -> RankAnswer:
        body = encode(RankRequest(request_id="t", history=history, num_results=20, exclude=history))
        return self._post("/v1/rank", body, RankAnswer)

    def swap(self, version: int) -> SwapReport:
        self._post("/v1/releases/stage", b'{"version": %d}' % version, ReplicaStatus)
        return self._post("/v1/releases/commit", b'{"version": %d}' % version, SwapReport)

    def status(self) -> ReplicaStatus:
        return decode(self.client.get("/v1/status").content, ReplicaStatus)

    def _post(self, path: str, body: bytes, answer: type[T]) -> T:
        response = self.client.post(path, content=body)
        assert response.status_code == 200, response.text
        return decode(response.content, answer)

    def left_over(self, seconds: float) -> list[psutil.Process]:
        """Processes of the replica that are still there after `seconds`."""
        _, alive = psutil.wait_procs(self.family, timeout=seconds)
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]

    def end(self) -> None:
        self.client.close()
        for process in self.family:
            if process.is_running():
                process.kill()
        self.popen.kill()
        self.popen.wait()
        self._log.close()


@pytest.fixture
def world(tmp_path: Path, clean_kafka: str) -> World:
    return World(tmp_path, clean_kafka)


def terminated(replica: ReplicaProcess) -> None:
    """Asked to end, it drains and ends well."""
    replica.popen.send_signal(signal.SIGTERM)
    assert replica.popen.wait(30) == 0


def killed(replica: ReplicaProcess) -> None:
    """Nothing in the process itself can clean up now."""
    replica.popen.kill()


def without_engine(replica: ReplicaProcess) -> None:
    """It loses its engine's process, and says so by its code."""
    engine = replica.family[1]
    engine.kill()
    assert replica.popen.wait(30) == 1


@pytest.mark.parametrize(
    ("layout", "ended"),
    [
        pytest.param([], without_engine, id="one-rank"),
        pytest.param(["--tensor-parallel", "2", "--cpu-cores", "0|1"], killed, id="tensor-parallel-2"),
        pytest.param(["--pipeline-parallel", "2", "--cpu-cores", "0|1"], terminated, id="pipeline-parallel-2"),
    ],
)
def test_reaches_the_live_version_ranks_as_the_oracle_swaps_and_leaves_nothing_behind(
    world: World, layout: list[str], ended: Callable[[ReplicaProcess], None]
) -> None:
    with world.replica(*layout) as replica:
        assert (replica.status().version, replica.status().state) == (2, ReplicaState.READY)
        asked = histories(6)
        for version in (2, 3, 1):
            if replica.status().version != version:
                replica.swap(version)
            answers = [replica.rank(history) for history in asked]
            assert {answer.model_version for answer in answers} == {version}
            assert all(world.agrees(answer, history) for answer, history in zip(answers, asked, strict=True))
        ended(replica)
        assert replica.left_over(10) == []
