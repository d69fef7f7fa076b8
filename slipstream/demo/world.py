"""The demo's processes: broker, trainer, two replicas, gateway; each as a user would start it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from catalogue.replay import Timeline
from loadtest.answers import Answer
from releases.fsspec_store import FsspecReleaseStore
from slipstream.demo.gateway_client import GatewayClient
from slipstream.demo.warm_up import fill_log
from slipstream.processes import Supervisor
from streams.broker import TansuBroker, free_port
from streams.kafka_log import KafkaEventLog
from streams.topics import apply_topics

MODEL = "movielens-tiny"
_REPLICAS = 2
_START_SECONDS = 240.0
_TRAINER_NICE = "5"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Two replicas, a trainer and a gateway share two cores; a `tiny` step is too small to split."""
_TOKEN_VARIABLE = "SLIPSTREAM_ADMIN_TOKEN"  # noqa: S105 - a variable's name


@dataclass
class World:
    """What runs, and how to reach it.

    Attributes:
        log: a connection of the demo's own.
        stream_from: for each partition of the events topic, where the stream begins behind the warm-up.
        state: the trainer's folder, with its ledger.
    """

    supervisor: Supervisor
    kafka: str
    log: KafkaEventLog
    store: FsspecReleaseStore
    stream_from: dict[int, int]
    state: Path
    gateway: GatewayClient
    replica_urls: list[str]

    def keep_answers(self, answers: Iterable[Answer]) -> None:
        """Write every answer beside the logs, as JSON lines, for whoever wants to look at one."""
        lines = (msgspec.json.encode(answer) + b"\n" for answer in answers)
        (self.supervisor.log_dir / "answers.jsonl").write_bytes(b"".join(lines))

    async def wait_ready(self) -> None:
        """Until replicas and gateway answer. Raises ProcessDied or NotReadyInTime."""
        urls = [*self.replica_urls, self.gateway.url]
        waiting = {asyncio.ensure_future(self.gateway.wait_ready(url, _START_SECONDS)) for url in urls}
        try:
            while waiting:
                self.supervisor.check()
                done, waiting = await asyncio.wait(waiting, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in waiting:
                task.cancel()


@contextlib.contextmanager
def broker(kafka: str | None, run_dir: Path) -> Iterator[str]:
    """The user's broker, or Tansu for as long as the context lasts; yields HOST:PORT."""
    if kafka is not None:
        yield kafka
        return
    with TansuBroker(run_dir / "broker.log") as tansu:
        yield tansu.bootstrap


@contextlib.asynccontextmanager
async def running(
    kafka: str, run_dir: Path, model_dir: Path, past: Timeline, port: int, workers: int
) -> AsyncIterator[World]:
    """Fill the log with `past` and start everything; ends every process on the way out.

    Args:
        port: the gateway's, and the one above it its operators'; free ones are taken where these are not.
        workers: of the trainer.
    """
    supervisor = Supervisor(run_dir)
    try:
        apply_topics(kafka)
        log = KafkaEventLog(kafka, client_id="slipstream-demo")
        items = past.dataset.items
        stream_from = fill_log(log, items, past, len(items) + len(past))
        gateway_port, admin_port = port_or_free(port), port_or_free(port + 1)
        replica_ports = [free_port() for _ in range(_REPLICAS)]
        token = secrets.token_urlsafe(16)
        async with GatewayClient(
            f"http://127.0.0.1:{gateway_port}", f"http://127.0.0.1:{admin_port}", token
        ) as gateway:
            world = World(
                supervisor=supervisor,
                kafka=kafka,
                log=log,
                store=FsspecReleaseStore(str(run_dir / "releases")),
                stream_from=stream_from,
                state=run_dir / "trainer",
                gateway=gateway,
                replica_urls=[f"http://127.0.0.1:{port}" for port in replica_ports],
            )
            _start_processes(world, run_dir, model_dir, (gateway_port, admin_port), replica_ports, token, workers)
            yield world
    finally:
        supervisor.stop_all()


def port_or_free(port: int) -> int:
    """`port` where nobody listens on it on loopback, else one that is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return free_port()
    return port


def _start_processes(
    world: World,
    run_dir: Path,
    model_dir: Path,
    gateway_ports: tuple[int, int],
    replica_ports: list[int],
    token: str,
    workers: int,
) -> None:
    common = ["--kafka", world.kafka]
    model = ["--model", MODEL, "--model-dir", str(model_dir), "--releases", str(run_dir / "releases")]
    for number, port in enumerate(replica_ports):
        place = ["--port", str(port), "--replica-id", f"replica-{number}"]
        arguments = ["serve", "--engine", "vllm", *model, *common, *place]
        world.supervisor.start(f"replica-{number}", arguments, env=_ONE_THREAD)
    start = ["--nice", _TRAINER_NICE, "--state", str(world.state), "--train-from", json.dumps(world.stream_from)]
    start += ["--workers", str(workers), "--exchange", "async", "--compress"]
    world.supervisor.start("trainer", ["train", *model, *common, *start])
    listen = ["--port", str(gateway_ports[0]), "--admin-port", str(gateway_ports[1])]
    replicas = [argument for url in world.replica_urls for argument in ("--replica", url)]
    world.supervisor.start("gateway", ["gateway", *common, *listen, *replicas], env={_TOKEN_VARIABLE: token})
