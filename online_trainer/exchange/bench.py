"""What an exchange costs: real workers and a real owner over sockets, on links of a given rate, no model in between."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import zmq

from online_trainer.exchange.asynchronous import AsynchronousExchange
from online_trainer.exchange.choice import EncodingChoice
from online_trainer.exchange.link import listen
from online_trainer.exchange.messages import PushCost, Rule
from online_trainer.exchange.metrics import ExchangeMetrics
from online_trainer.exchange.owner import Identity, Owner
from online_trainer.exchange.replica import Replica
from online_trainer.exchange.sequencer import GroupSettings, Sequencer
from online_trainer.exchange.write_ahead import WriteAheadLog
from online_trainer.metrics import TrainerMetrics
from online_trainer.progress import Progress
from online_trainer.state import StateFolder

_VARIABLE = "SLIPSTREAM_TOXIPROXY"


@dataclass(frozen=True)
class ExchangeCost:
    """Of one push and the pull with it: seconds, medians over workers and pushes; bytes, means.

    Attributes:
        total_seconds: from the finished update to the new weights.
        encode_seconds, decode_seconds: its parts on the worker; `link_seconds`: sockets, and the owner's write, apply
            and answer, without what it let the push wait for others.
        pushed_bytes, pulled_bytes: by the proxy's counters of its sockets; by the worker's count with ZMTP's framing
            where there is no proxy.
    """

    total_seconds: float
    encode_seconds: float
    decode_seconds: float
    link_seconds: float
    pushed_bytes: float
    pulled_bytes: float


class Toxiproxy:
    """A faulty network in a process of its own; proxies with a capped rate."""

    def __init__(self, binary: str, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        command = [binary, "-host", "127.0.0.1", "-port", str(port), "-proxy-metrics"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                self._call("GET", "/version")
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def link(self, name: str, upstream: str, listen_port: int, bytes_per_second: float) -> str:
        """A capped link to `upstream` (HOST:PORT); its address."""
        address = f"127.0.0.1:{listen_port}"
        self._call("POST", "/proxies", {"name": name, "listen": address, "upstream": upstream})
        for stream in ("upstream", "downstream"):
            attributes = {"rate": max(1, round(bytes_per_second / 1000))}
            toxic = {"type": "bandwidth", "stream": stream, "attributes": attributes}
            self._call("POST", f"/proxies/{name}/toxics", toxic)
        return f"tcp://{address}"

    def counted_when_closed(self, links: int) -> tuple[float, float]:
        """Bytes that went upstream and downstream; the proxy counts a connection's once it is closed."""
        deadline = time.monotonic() + 10
        while len(found := self._counters()) < 2 * links and time.monotonic() < deadline:
            time.sleep(0.05)
        return (
            sum(value for line, value in found if 'direction="upstream"' in line),
            sum(value for line, value in found if 'direction="downstream"' in line),
        )

    def _counters(self) -> list[tuple[str, float]]:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=10) as response:  # noqa: S310
            lines = response.read().decode().splitlines()
        found = [line for line in lines if line.startswith("toxiproxy_proxy_received_bytes_total{")]
        return [(line, float(line.rsplit(" ", 1)[1])) for line in found]

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data, {"User-Agent": "slipstream"}, method=method)  # noqa: S310
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


def toxiproxy_binary() -> str | None:
    """Of $SLIPSTREAM_TOXIPROXY or the PATH; None where there is none."""
    return os.environ.get(_VARIABLE) or shutil.which("toxiproxy") or shutil.which("toxiproxy-server")


def measure_exchange(
    rule: Rule, num_elements: int, workers: int, pushes: int, link_bytes_per_second: float, free_port: Any
) -> ExchangeCost:
    """Every worker pushes `pushes` random updates as fast as it can, after two that are not counted.

    Args:
        link_bytes_per_second: of each worker's link, both ways; 0 for plain loopback.
        free_port: gives a TCP port.
    """
    with _group(rule, num_elements, workers, link_bytes_per_second, free_port) as (_, exchanges, proxy):
        return _run(exchanges, pushes, proxy)


@dataclass(frozen=True)
class Chosen:
    """What a group chose by itself, and the seconds of a push that it measured of both encodings."""

    compressed: bool
    dense_seconds: float
    compressed_seconds: float


def measure_choice(rule: Rule, num_elements: int, workers: int, link_bytes_per_second: float, free_port: Any) -> Chosen:
    """Workers push, as the coordinator says, until it has chosen; arguments as of `measure_exchange`.

    Raises:
        RuntimeError: no choice after many pushes.
    """
    rule = msgspec.structs.replace(rule, choose=True)
    with _group(rule, num_elements, workers, link_bytes_per_second, free_port) as (owner, exchanges, _):
        assert owner.choice is not None, "the rule says so"  # noqa: S101
        for seed in range(10 * EncodingChoice.TRIES):
            _push_all(exchanges, 1, seed)
            if owner.choice.settled is not None:
                return Chosen(owner.choice.settled, owner.choice.seconds(False), owner.choice.seconds(True))
    raise RuntimeError("the coordinator has not chosen")


@contextlib.contextmanager
def _group(
    rule: Rule, num_elements: int, workers: int, link_bytes_per_second: float, free_port: Any
) -> Iterator[tuple[Owner, list[AsynchronousExchange], Toxiproxy | None]]:
    """An owner, and workers that have joined over links of that rate."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        owner = stack.enter_context(owner_in_thread(rule, num_elements, folder))
        address = owner.identity.shards[0]
        addresses, proxy = [address] * workers, None
        if link_bytes_per_second:
            binary = toxiproxy_binary()
            if binary is None:
                raise FileNotFoundError(f"a capped link needs toxiproxy: put it on the PATH, or into ${_VARIABLE}")
            proxy = Toxiproxy(binary, free_port())
            stack.callback(proxy.close)
            upstream = address.removeprefix("tcp://")
            addresses = [proxy.link(f"w{n}", upstream, free_port(), link_bytes_per_second) for n in range(workers)]
        exchanges = []
        for number, one in enumerate(addresses):
            exchange = AsynchronousExchange(f"w{number}", torch.zeros(num_elements), None, "bench", "bench", one)
            exchange.join()
            exchanges.append(exchange)
        try:
            yield owner, exchanges, proxy
        finally:
            for exchange in exchanges:
                exchange.close()


def _run(exchanges: list[AsynchronousExchange], pushes: int, proxy: Toxiproxy | None) -> ExchangeCost:
    _push_all(exchanges, 2, seed=0)
    told = [exchange.traffic for exchange in exchanges]
    costs = _push_all(exchanges, pushes, seed=1)
    count = len(exchanges) * pushes
    now = [exchange.traffic for exchange in exchanges]
    sent = sum(a.sent_bytes - b.sent_bytes for a, b in zip(now, told, strict=True))
    received = sum(a.received_bytes - b.received_bytes for a, b in zip(now, told, strict=True))
    for exchange in exchanges:
        exchange.leave()
        exchange.close()
    if proxy:
        up, down = proxy.counted_when_closed(len(exchanges))
        sent = round(up) - sum(traffic.sent_bytes for traffic in told)
        received = round(down) - sum(traffic.received_bytes for traffic in told)
    return ExchangeCost(
        total_seconds=statistics.median(cost.seconds for cost in costs),
        encode_seconds=statistics.median(cost.encode_seconds for cost in costs),
        link_seconds=statistics.median(cost.link_seconds for cost in costs),
        decode_seconds=statistics.median(cost.decode_seconds for cost in costs),
        pushed_bytes=sent / count,
        pulled_bytes=received / count,
    )


def _push_all(exchanges: list[AsynchronousExchange], pushes: int, seed: int) -> list[PushCost]:
    """All workers at once; what each push took."""
    costs: list[PushCost] = []

    def work(number: int) -> None:
        exchange = exchanges[number]
        generator = torch.Generator().manual_seed(1000 * seed + number)
        for _ in range(pushes):
            update = torch.randn(exchange.residual.numel(), generator=generator)
            exchange.exchange(update)
            assert exchange.cost is not None, "of the push"  # noqa: S101
            costs.append(exchange.cost)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(exchanges))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return costs


@contextlib.contextmanager
def owner_in_thread(rule: Rule, num_elements: int, folder: Path) -> Iterator[Owner]:
    """An owner of nothing but zeros, in a thread. For measurements and tests."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket, address = listen(context, "tcp://127.0.0.1:0", None)
    state = StateFolder(folder / "state")
    replica = Replica(torch.zeros(num_elements), rule)
    progress = Progress(state, replica, 1, 1)
    progress.start_over({0: 0})
    log = WriteAheadLog(folder / "orders")
    list(log.replay(0))
    metrics = TrainerMetrics()
    sequencer = Sequencer({0: 0}, GroupSettings(staleness_bound=64, lease_seconds=600), frozenset())
    identity = Identity(model="bench", layout="bench", rule=rule, shards=[address])

    def send(sender: bytes, message: list[bytes]) -> None:
        socket.send_multipart([sender, *message], copy=False)

    owner = Owner(
        identity, replica, progress, log, sequencer, metrics, ExchangeMetrics(metrics.registry), send
    )  # fmt: skip
    ending = threading.Event()

    def run() -> None:
        while not ending.is_set():
            while socket.poll(20):
                sender, *received = socket.recv_multipart()
                owner.receive(sender, received)
                owner.settle()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield owner
    finally:
        ending.set()
        thread.join()
        socket.close(0)
        log.close()
        progress.close()
        state.close()


def both_rules(rule: Rule) -> dict[str, Rule]:
    """`rule`, dense and compressed."""
    return {
        "dense": msgspec.structs.replace(rule, compressed=False),
        "compressed": msgspec.structs.replace(rule, compressed=True),
    }
