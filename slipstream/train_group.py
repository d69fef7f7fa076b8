"""`slipstream train --workers N`: the processes of a group on this machine, and what a child runs.

One launcher without torch supervises an owner and N workers, or N ranks of a synchronous group. They are forked from a
server that has torch and the model's code loaded: a start takes about a second, and a killed child is back as fast.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from online_trainer import fault_points

if TYPE_CHECKING:
    from online_trainer.exchange.messages import Rule
    from online_trainer.exchange.sequencer import GroupSettings
    from online_trainer.metrics import TrainerMetrics
    from online_trainer.patience import Patience
    from online_trainer.settings import TrainerSettings

ANNOUNCE_SECONDS = 12.0
"""Until an announcement that a broker has not taken is tried on a new connection; a request may take 10 s of it."""
PORT_TAKEN, REPLACED, UNFIT, BUSY, RANK_LOST = 2, 3, 4, 5, 6
"""Exit codes: the metrics' port is taken; another trainer took over; state, model, log or group do not fit; the state
folder is in use; another rank is gone, and all are started again."""
_FINAL = frozenset({PORT_TAKEN, REPLACED, UNFIT, BUSY})
_PRELOAD = [
    "torch",
    "transformers.models.qwen3.modeling_qwen3",
    "slipstream.train_group",
    "slipstream.logs",
    "online_trainer.exchange.serve",
    "online_trainer.rounds.start",
    "recommender.loading",
    "releases.fsspec_store",
    "streams.kafka_log",
]
_RESTART_SECONDS = 0.5
_PATIENCE_SECONDS = 15.0
_RANKS_SECONDS = 5.0
"""Until a rank has noticed that another is gone; gloo's connections break at once."""
RANK_PATIENCE_SECONDS = 600.0
"""Until a rank that keeps the others waiting counts as hung: a broker that is away may keep one so long."""


@dataclass(frozen=True)
class GroupConfig:
    """What every process of a group is told.

    Attributes:
        addresses: where the owners listen, the coordinator's first; none for a synchronous group.
        meeting: where the ranks of a synchronous group find one another, as torch.distributed takes it.
        key: the shared key file; None on loopback.
        slow_down: worker number → factor on its batches' time, for experiments.
        ranks: of the synchronous group.
        device: of its ranks: cpu, or cuda for a GPU each.
    """

    settings: TrainerSettings
    group: GroupSettings
    rule: Rule
    model_dir: Path
    kafka: str
    releases: str
    addresses: tuple[str, ...] = ()
    meeting: str = ""
    key: Path | None = None
    threads: int = 1
    nice: int = 10
    metrics_port: int = 0
    metrics_host: str = "127.0.0.1"
    log_level: str = "info"
    slow_down: dict[int, float] = field(default_factory=dict)
    ranks: int = 0
    device: str = "cpu"


@dataclass
class _Child:
    name: str
    target: Callable[[GroupConfig, int], int]
    number: int
    process: ForkServerProcess | None = None
    restart_at: float = 0.0
    done: bool = False
    lives: int = 0


class Launcher:
    """Starts the owners and workers, starts again what dies, ends all in order.

    A synchronous group (no `addresses`) lives and dies as one: when a rank dies, all are started again.

    Args:
        fault: a moment at which the first life of each kind's number 0 kills itself; see `online_trainer.fault_points`.
        everywhere: every child's first life does.
        victim: another number than 0.
    """

    def __init__(
        self, config: GroupConfig, workers: int, fault: str = "", everywhere: bool = False, victim: int | None = None
    ) -> None:
        self.deaths: list[tuple[str, int]] = []
        """Name and exit code of each child that died."""
        self._fault = fault
        self._everywhere = everywhere
        self._victim = (1 if fault.startswith("shard.") else 0) if victim is None else victim
        self._config = config
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        self._alive, self._living = self._context.Pipe(duplex=False)
        """This process alone holds the writing end: who reads its end has outlived the launcher."""
        self._workers = workers
        self._together = not config.addresses
        self._meetings = ""
        owners = [_Child(f"owner-{number}", run_owner, number) for number in range(len(config.addresses))]
        run = run_rank if self._together else run_worker
        self.children = [*owners, *(_Child(f"worker-{number}", run, number) for number in range(workers))]
        self.stopping = False
        self._log = structlog.get_logger(__name__)

    def stop(self, *_: object) -> None:
        """Ask for an orderly end; a signal handler may call it."""
        self.stopping = True

    def run(self) -> int:
        """Until told to stop, the log's end, or a child that must not be started again; the exit code."""
        with tempfile.TemporaryDirectory(prefix="slipstream-meeting-") as self._meetings:
            for child in self.children:
                self._start(child)
            code = 0
            while not self.stopping:
                time.sleep(0.1)
                code = self._look_after()
                if code or self._finished():
                    break
            self._end([child for child in self.children if child.target is not run_owner])
            self._end([child for child in self.children if child.target is run_owner])
        return code

    def process_id(self, name: str) -> int | None:
        """Of a running child, for experiments; None while it is down."""
        process = next(child.process for child in self.children if child.name == name)
        return process.pid if process is not None else None

    def _finished(self) -> bool:
        """Whether all is trained: the coordinator says so, or every rank."""
        return all(child.done for child in (self.children if self._together else self.children[:1]))

    def _start(self, child: _Child) -> None:
        config = self._config
        if self._together:
            # A meeting serves one life of the group.
            config = replace(config, meeting=f"file://{self._meetings}/{child.lives}", ranks=self._workers)
        victim = self._everywhere or child.number == self._victim
        fault = self._fault if victim and child.lives == 0 else ""
        child.lives += 1
        child.process = self._context.Process(
            target=_main, args=(child.target, config, child.number, fault, self._alive), name=child.name
        )
        child.process.start()

    def _look_after(self) -> int:
        """Start again what has died; the exit code of what must not be."""
        now = time.monotonic()
        for child in self.children:
            process = child.process
            if child.done:
                continue
            if process is None:
                if now >= child.restart_at:
                    self._start(child)
            elif process.exitcode is not None:
                child.process = None
                if process.exitcode in _FINAL:
                    return process.exitcode
                child.done = process.exitcode == 0
                if not child.done:
                    self.deaths.append((child.name, process.exitcode))
                    self._log.warning("process_died", process=child.name, exit_code=process.exitcode)
                    child.restart_at = now + _RESTART_SECONDS
                    if self._together:
                        return self._start_over()
        return 0

    def _start_over(self) -> int:
        """A rank has died: wait for the others to see it, and start all again; the exit code of what must not be."""
        others = [child.process for child in self.children if child.process is not None]
        deadline = time.monotonic() + _RANKS_SECONDS
        for process in others:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
        final = [process.exitcode for process in others if process.exitcode in _FINAL]
        self.deaths += [(process.name, process.exitcode) for process in others if process.exitcode]
        lives = max(child.lives for child in self.children)
        restart_at = time.monotonic() + _RESTART_SECONDS
        for child in self.children:
            child.process, child.done, child.lives, child.restart_at = None, False, lives, restart_at
        return final[0] if final else 0

    def _end(self, children: list[_Child]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        running = [child.process for child in children if child.process is not None]
        for process in running:
            process.terminate()
        for process in running:
            process.join(max(0.1, deadline - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()


def run_owner(config: GroupConfig, number: int) -> int:
    """In the child: owner `number`; the exit code."""
    import zmq

    from online_trainer.exchange.link import Keys, listen
    from online_trainer.exchange.releasing import StartOver
    from online_trainer.exchange.serve import serve
    from online_trainer.exchange.shard import serve_shard
    from online_trainer.exchange.start import start_owner, start_shard
    from recommender.cold_start import title_tokenizer
    from recommender.loading import load_recommender
    from releases.fsspec_store import FsspecReleaseStore
    from streams.kafka_log import KafkaEventLog

    metrics, patience = _observed(config, number)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    keys = Keys.read(config.key) if config.key else None
    socket, _ = listen(context, config.addresses[number], keys)

    def send(sender: bytes, message: list[bytes]) -> None:
        socket.send_multipart([sender, *message])

    if number:
        recommender = load_recommender(config.model_dir)
        addresses = list(config.addresses)
        shard = start_shard(number, config.settings, config.rule, recommender, addresses, keys, send)
        serve_shard(shard, socket, patience)
        socket.close(0)
        return 0
    process = start_owner(
        config.settings,
        config.group,
        config.rule,
        load_recommender(config.model_dir),
        lambda: KafkaEventLog(
            config.kafka, client_id="slipstream-train-owner", delivery_timeout_seconds=ANNOUNCE_SECONDS
        ),
        FsspecReleaseStore(config.releases),
        metrics,
        patience,
        send,
        list(config.addresses),
        title_tokenizer(config.model_dir),
    )
    try:
        serve(process, socket, patience)
    except StartOver as error:
        structlog.get_logger(__name__).error("start_over", reason=str(error))
        return 1
    finally:
        socket.close(0)
        process.close()
    return 0


def run_worker(config: GroupConfig, number: int) -> int:
    """In the child: worker `number`; the exit code."""
    from online_trainer.exchange.link import Keys
    from online_trainer.exchange.start import start_worker
    from online_trainer.metrics import TrainerMetrics
    from online_trainer.patience import Patience
    from recommender.loading import load_recommender
    from streams.kafka_log import KafkaEventLog

    metrics = TrainerMetrics()
    patience = Patience(metrics)
    _end_on_signals(patience)
    worker = start_worker(
        f"worker-{number}",
        number,
        config.settings,
        load_recommender(config.model_dir),
        lambda: KafkaEventLog(config.kafka, client_id=f"slipstream-train-worker-{number}"),
        config.addresses[0],
        Keys.read(config.key) if config.key else None,
        metrics,
        patience,
        config.slow_down.get(number, 1.0),
        config.rule,
    )
    worker.run()
    return 0


def run_rank(config: GroupConfig, number: int) -> int:
    """In the child: rank `number` of a synchronous group; the exit code."""
    from online_trainer.rounds.group import RankGroup
    from online_trainer.rounds.start import start_rank
    from recommender.loading import load_recommender
    from releases.fsspec_store import FsspecReleaseStore
    from streams.kafka_log import KafkaEventLog

    metrics, patience = _observed(config, number)
    group = RankGroup(number, config.ranks, config.meeting, RANK_PATIENCE_SECONDS, config.device)
    rank = start_rank(
        group,
        config.settings,
        config.rule,
        load_recommender(config.model_dir),
        lambda: KafkaEventLog(
            config.kafka, client_id=f"slipstream-train-worker-{number}", delivery_timeout_seconds=ANNOUNCE_SECONDS
        ),
        FsspecReleaseStore(config.releases),
        metrics,
        patience,
        config.slow_down.get(number, 1.0),
    )
    try:
        rank.run()
    finally:
        rank.close()
    group.close()
    return 0


def guarded(target: Callable[[GroupConfig, int], int], config: GroupConfig, number: int) -> int:
    """`target`'s exit code; what it raises as one, with a line in the log."""
    from online_trainer.exchange.asynchronous import WorkerUnfit
    from online_trainer.exchange.write_ahead import LogDamaged
    from online_trainer.journal import JournalDamaged
    from online_trainer.patience import Stopped
    from online_trainer.rounds.group import GroupDiffers, RankLost
    from online_trainer.start import StateDoesNotFit
    from online_trainer.state import StateInUse
    from releases.store import WriterReplaced
    from slipstream.metrics_endpoint import PortTaken

    codes: dict[type[BaseException], int] = {
        Stopped: 0,
        PortTaken: PORT_TAKEN,
        WriterReplaced: REPLACED,
        StateInUse: BUSY,
        RankLost: RANK_LOST,
        **dict.fromkeys(
            (WorkerUnfit, GroupDiffers, LogDamaged, JournalDamaged, StateDoesNotFit, FileNotFoundError), UNFIT
        ),
    }
    try:
        return target(config, number)
    except tuple(codes) as error:
        code = next(code for kind, code in codes.items() if isinstance(error, kind))
        if code:
            print(f"slipstream train: {error}", file=sys.stderr, flush=True)
        return code


def run_in_this_process(target: Callable[[GroupConfig, int], int], config: GroupConfig, number: int) -> int:
    """Set the process up as every one of a group is, and run `target` in it; the exit code."""
    # numba's threads are OpenMP's, and so torch's: its pool would otherwise set torch back to every core.
    os.environ["NUMBA_NUM_THREADS"] = str(config.threads)
    import torch

    from slipstream import logs

    logs.configure(config.log_level)
    structlog.contextvars.bind_contextvars(process=f"{target.__name__.removeprefix('run_')}-{number}")
    os.nice(config.nice)
    torch.set_num_threads(config.threads)
    return guarded(target, config, number)


def _main(
    target: Callable[[GroupConfig, int], int], config: GroupConfig, number: int, fault: str, launcher: Connection
) -> None:
    """In the child."""
    os.environ[fault_points.VARIABLE] = fault
    threading.Thread(target=_end_with, args=(launcher,), name="launcher-watch", daemon=True).start()
    sys.exit(run_in_this_process(target, config, number))


def _end_with(launcher: Connection) -> None:
    """Ask this process to end in order once the launcher has been killed; nobody else would, nor make it.

    Not by the fork server's death: it lives as long as one of its children does.
    """
    with contextlib.suppress(EOFError, OSError):
        launcher.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_SECONDS)
    os._exit(1)


def _observed(config: GroupConfig, number: int) -> tuple[TrainerMetrics, Patience]:
    from online_trainer.metrics import TrainerMetrics
    from online_trainer.patience import Patience
    from slipstream.metrics_endpoint import serve_metrics

    metrics = TrainerMetrics()
    patience = Patience(metrics)
    _end_on_signals(patience)
    if config.metrics_port and number == 0:
        serve_metrics(config.metrics_port, config.metrics_host, metrics.registry)
    return metrics, patience


def _end_on_signals(patience: Patience) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: patience.stop())
