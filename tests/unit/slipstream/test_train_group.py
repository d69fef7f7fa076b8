"""The launcher of a group of trainers and its children's lives."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from slipstream.metrics_endpoint import PortTaken
from slipstream.train_group import _FINAL, PORT_TAKEN, guarded

SCRIPT = """
import os, time
from slipstream.train_group import GroupConfig, Launcher

def wait(config, number):
    print(os.getpid(), flush=True)
    time.sleep(100)
    return 0

if __name__ == "__main__":
    nothing = None
    launcher = Launcher(GroupConfig(nothing, nothing, nothing, nothing, "", ""), workers=2)
    for child in launcher.children:
        child.target = wait
    launcher.run()
"""


def test_nobody_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    script, out = tmp_path / "group.py", tmp_path / "out"
    script.write_text(SCRIPT)
    with out.open("wb") as output:
        launcher = subprocess.Popen([sys.executable, str(script)], stdout=output)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while len(out.read_text().split()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        family = psutil.Process(launcher.pid).children(recursive=True)
        children = {int(pid) for pid in out.read_text().split()}
        assert len(children) == 2 and children < {process.pid for process in family}
        launcher.kill()
        launcher.wait()
        assert psutil.wait_procs(family, timeout=20)[1] == [], "the fork server, too, ends with the last of them"
    finally:
        launcher.kill()
        for process in psutil.wait_procs(family, timeout=0)[1]:
            process.kill()


def test_a_child_whose_metrics_port_was_taken_meanwhile_says_so_in_one_line_and_ends_the_group(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def taken(config: Any, number: int) -> int:
        raise PortTaken("--metrics-port 8200 can't be opened")

    nothing: Any = None
    assert guarded(taken, nothing, 0) == PORT_TAKEN in _FINAL
    assert capsys.readouterr().err == "slipstream train: --metrics-port 8200 can't be opened\n"
