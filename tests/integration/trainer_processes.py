"""Real `slipstream train` processes, forked from a server that has torch loaded: a start takes 1 s, not 8."""

from __future__ import annotations

import multiprocessing
import os
import sys
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
