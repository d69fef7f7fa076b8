"""Real `slipstream train` processes, forked from a server that has torch loaded: a start takes 1 s, not 8."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_PRELOAD = [
    "slipstream.cli",
    "slipstream.commands.train",
    "torch",
    "transformers.models.qwen3.modeling_qwen3",
    "recommender.loading",
    "online_trainer.start",
    "releases.fsspec_store",
    "streams.kafka_log",
]


STATIC = ("--train-from", "begin", "--stop-at-end", "--batch-events", "16")
STATIC += ("--publish-seconds", "0", "--publish-events", "48", "--keep-releases", "1000")
"""Of a trainer that takes what is there in equal batches, and ends."""
_LIVE = ("--train-from", "begin", "--batch-events", "16", "--linger-seconds", "0.02", "--publish-seconds", "0.3")


def _main(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """In the child: the command, its output in `log`."""
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = ["slipstream", *arguments]
    from slipstream.cli import main

    main()


class TrainerProcesses:
    """Starts trainers over one broker, model and release store."""

    def __init__(self, kafka: str, model_dir: Path, folder: Path) -> None:
        self.kafka = kafka
        self.model_dir = model_dir
        self.folder = folder
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        self._started: list[ForkServerProcess] = []

    def start(self, name: str, *flags: str, state: str | None = None, fault: str = "") -> ForkServerProcess:
        """A trainer of model `name`, its state in the folder `state` (by default `name`)."""
        arguments = ["train", "--model", name, "--model-dir", str(self.model_dir), "--kafka", self.kafka]
        arguments += ["--releases", str(self.folder / "releases"), "--state", str(self.folder / (state or name))]
        environment = {"SLIPSTREAM_FAULT_POINT": fault, "OMP_NUM_THREADS": "1"}
        process = self._context.Process(
            target=_main, args=([*arguments, "--nice", "0", *flags], environment, self.log(name)), daemon=True
        )
        process.start()
        self._started.append(process)
        return process

    def run(self, name: str, *flags: str, state: str | None = None, fault: str = "") -> int:
        """Start a trainer and wait for its end; the exit code, -9 for one that was killed."""
        process = self.start(name, *flags, state=state, fault=fault)
        process.join(60)
        assert process.exitcode is not None, f"{name} still runs:\n{self.said(name)}"
        return process.exitcode

    def run_live(self, stream: Callable[[], None], faults: Sequence[str]) -> None:
        """Trainer `live` on what `stream` sends, killed at each of `faults` and in between, to the log's end."""
        sender = threading.Thread(target=stream)
        process = self.start("live", *_LIVE)
        sender.start()
        for fault in faults:
            process.kill()
            process.join()
            assert self.run("live", *_LIVE, fault=fault) == -signal.SIGKILL, self.said("live")
            process = self.start("live", *_LIVE)
        sender.join()
        process.terminate()
        process.join(30)
        assert process.exitcode == 0, self.said("live")
        assert self.run("live", "--stop-at-end") == 0

    def check_repeat(self, state: str) -> None:
        """What the journal of `live` says, undisturbed, ends bit for bit where `live` did."""
        (self.folder / state).mkdir()
        (self.folder / state / "journal.jsonl").write_bytes((self.folder / "live/journal.jsonl").read_bytes())
        assert self.run("live", "--stop-at-end", state=state) == 0
        assert self.last_tensors(state) == self.last_tensors("live")
        assert self.ledger(state) == self.ledger("live")

    def last_tensors(self, state: str) -> bytes:
        """Weights, optimizer and random state of the last checkpoint."""
        return max((self.folder / state / "checkpoints").glob("0*/tensors.safetensors")).read_bytes()

    def ledger(self, state: str) -> bytes:
        """As it stands in the file."""
        return (self.folder / state / "prequential.jsonl").read_bytes()

    def log(self, name: str) -> Path:
        """Where trainers of a model log."""
        return self.folder / f"{name}.log"

    def said(self, name: str) -> str:
        """What trainers of a model have logged."""
        return self.log(name).read_text() if self.log(name).exists() else ""

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._started:
            if process.is_alive():
                process.kill()
            process.join()
