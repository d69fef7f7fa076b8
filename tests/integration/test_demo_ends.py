"""Ctrl-C ends a demo and every process that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _processes_of(run_dir: str) -> list[str]:
    """Command lines that name a file of the run."""
    lines = [_command(process) for process in psutil.process_iter()]
    return [line for line in lines if run_dir in line]


def _forked(demo: psutil.Process) -> list[psutil.Process]:
    """The trainer's owner and workers, and the server that they are forked from: they share its command line."""
    return [child for child in demo.children(recursive=True) if "forkserver" in _command(child)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


@pytest.mark.parametrize("number", [signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_all_of_it(number: signal.Signals, tmp_path: Path) -> None:
    cache, said = tmp_path / "cache", tmp_path / "said"
    environment = {**os.environ, "SLIPSTREAM_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    with said.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "slipstream.cli", "demo", "--pretrain-epochs", "0.1"],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + 170
        of_demo = psutil.Process(demo.pid)
        # Trainer and replicas (the gateway's line names no file), and of the trainer at least one that it has forked.
        while len(_processes_of(str(cache / "demo"))) < 3 or len(_forked(of_demo)) < 2:
            assert demo.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        started = of_demo.children(recursive=True)
        demo.send_signal(number)
        assert demo.wait(60) == 130, said.read_text()
    finally:
        demo.kill()
        demo.wait()
    assert "every process has ended" in said.read_text()
    assert _processes_of(str(cache)) == []
    assert psutil.wait_procs(started, timeout=10)[1] == []
