"""A gateway, two real replicas (plain PyTorch, a tiny random model) and a real broker, each its own process."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contracts.item import Item
from contracts.release import ReleaseAnnouncement, ReleaseKind, ReleaseManifest
from contracts.topics import ITEMS, RELEASES
from contracts.wire import encode
from releases.bundle import RawTensor
from releases.fsspec_store import FsspecReleaseStore
from slipstream.processes import Process, Supervisor
from streams.broker import free_port
from streams.kafka_log import KafkaEventLog

TOKEN = "operators-only"
START_SECONDS = 90.0


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """The first true value of `condition`, which is polled."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return found


@dataclass
class Answered:
    """An HTTP answer."""

    status: int
    body: Any
    headers: dict[str, str]


def call(method: str, url: str, body: Any = None, token: str | None = None) -> Answered:
    """One request; an error status is an answer too, no connection is status 0."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - our own addresses
    try:
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            return Answered(response.status, json.load(response), dict(response.headers))
    except urllib.error.HTTPError as error:
        with error:
            return Answered(error.code, json.load(error), dict(error.headers))
    except OSError:
        return Answered(0, None, {})


@dataclass
class World:
    """What runs, and its releases.

    Attributes:
        user: a prefix of user ids of this world's own: the broker is shared.
    """

    supervisor: Supervisor
    bootstrap: str
    model_dir: Path
    store: FsspecReleaseStore
    store_url: str
    log: KafkaEventLog
    weights: dict[str, RawTensor]
    item_ids: list[str]
    model: str = field(default_factory=lambda: f"m{uuid.uuid4().hex[:8]}")
    user: str = field(default_factory=lambda: f"u{uuid.uuid4().hex[:8]}-")
    ports: list[int] = field(default_factory=lambda: [free_port() for _ in range(4)])
    replicas: list[Process] = field(default_factory=list)
    epoch: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def replica_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports[2:]]

    def admin(self, verb: str, method: str = "POST") -> Answered:
        return call(method, f"http://127.0.0.1:{self.ports[1]}/admin/{verb}", token=TOKEN)

    def start_replica(self, number: int) -> Process:
        arguments = ["serve", "--engine", "torch", "--model", self.model, "--model-dir", str(self.model_dir)]
        arguments += ["--releases", self.store_url, "--kafka", self.bootstrap, "--port", str(self.ports[2 + number])]
        return self.supervisor.start(f"replica-{number}", arguments, env={"OMP_NUM_THREADS": "1"})

    def start_gateway(self) -> Process:
        arguments = ["gateway", "--kafka", self.bootstrap]
        arguments += ["--port", str(self.ports[0]), "--admin-port", str(self.ports[1])]
        for url in self.replica_urls:
            arguments += ["--replica", url]
        return self.supervisor.start("gateway", arguments, env={"SLIPSTREAM_ADMIN_TOKEN": TOKEN})

    def publish_items(self) -> None:
        for item_id in self.item_ids:
            item = Item(item_id=item_id, title=f"Title of {item_id}")
            self.log.produce(ITEMS, item_id.encode(), encode(item))
        self.log.flush(30)

    def publish(self, version: int, corrupt: bool = False) -> None:
        """Write and announce a release: the model's weights, moved by an amount that tells versions apart."""
        import numpy as np

        tensors = {}
        for name, raw in self.weights.items():
            moved = np.frombuffer(raw.data, np.float32) * (1 + 0.02 * version)
            tensors[name] = RawTensor(raw.dtype, raw.shape, moved.astype(np.float32).tobytes())
        self.epoch = self.epoch or self.store.acquire_epoch(self.model)
        manifest = ReleaseManifest(
            model=self.model,
            version=version,
            kind=ReleaseKind.FULL,
            epoch=self.epoch,
            created_at=time.time(),
            tensors={name: raw.entry() for name, raw in tensors.items()},
            offsets={},
        )
        sha256 = self.store.publish(manifest, tensors)
        if corrupt:
            self._flip_a_byte(version)
        announcement = ReleaseAnnouncement(model=self.model, version=version, epoch=self.epoch, manifest_sha256=sha256)
        self.log.produce(RELEASES, self.model.encode(), encode(announcement)).result(30)

    def _flip_a_byte(self, version: int) -> None:
        path = next(Path(self.store_url).rglob(f"{version:012d}-e*.safetensors"))
        content = bytearray(path.read_bytes())
        content[-5] ^= 0x40
        path.write_bytes(content)

    def recommend(self, user: str, **options: Any) -> Answered:
        return call("POST", f"{self.url}/v1/recommendations", {"user_id": self.user + user, **options})

    def post(self, *events: tuple[str, str, str]) -> Answered:
        """Post (event id, user, item) events."""
        body = [
            {
                "event_id": self.user + event_id,
                "event_type": "click",
                "user_id": self.user + user,
                "item_id": item_id,
                "timestamp": 1.0,
            }
            for event_id, user, item_id in events
        ]
        return call("POST", f"{self.url}/v1/events", {"events": body})

    def versions(self) -> list[int | None]:
        """What each replica serves, in its own words."""
        answers = [call("GET", f"{url}/v1/status") for url in self.replica_urls]
        return [answer.body["version"] if answer.status == 200 else None for answer in answers]

    def metric(self, name: str) -> float:
        """A metric of the gateway that has no labels."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:  # noqa: S310
            text = response.read().decode()
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def live(self) -> int | None:
        models = call("GET", f"{self.url}/v1/models").body["models"]
        return models[0]["live_version"] if models else None
