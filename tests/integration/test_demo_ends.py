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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def _processes_of(run_dir: str) -> list[str]:
    """Command lines that name a file of the run."""
    found = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if run_dir in line:
            found.append(line)
    return found


def _trainer_said(cache: Path) -> bytes:
    return b"".join(log.read_bytes() for log in (cache / "demo").glob("*/trainer.log"))


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
        deadline = time.monotonic() + 120
        # The trainer's log tells of both workers once all of it runs; their command lines name no file.
        while not all(b'"worker-%d"' % number in _trainer_said(cache) for number in range(2)):
            assert demo.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        started = psutil.Process(demo.pid).children(recursive=True)
        assert len([one for one in started if "forkserver" in " ".join(one.cmdline())]) >= 4
        demo.send_signal(number)
        assert demo.wait(60) == 130, said.read_text()
    finally:
        demo.kill()
        demo.wait()
    assert "every process has ended" in said.read_text()
    assert _processes_of(str(cache)) == []
    assert psutil.wait_procs(started, timeout=10)[1] == []
