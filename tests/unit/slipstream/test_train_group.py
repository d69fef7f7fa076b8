"""The launcher of a group of trainers and its children's lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nobody_outlives_a_launcher_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "group.py"
    script.write_text(SCRIPT)
    with (tmp_path / "out").open("wb") as out:
        launcher = subprocess.Popen([sys.executable, str(script)], stdout=out, start_new_session=True)
    try:
        _until(lambda: len((tmp_path / "out").read_text().split()) == 2, 60)
        children = [int(pid) for pid in (tmp_path / "out").read_text().split()]
        launcher.kill()
        launcher.wait()
        _until(lambda: not any(map(_lives, children)), 10)
        assert not any(map(_lives, children))
        _until(lambda: not _session(launcher.pid), 10)
        assert _session(launcher.pid) == [], "the fork server ends with the last of them"
    finally:
        for pid in _session(launcher.pid):
            os.kill(pid, signal.SIGKILL)


def _until(found: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not found() and time.monotonic() < deadline:
        time.sleep(0.1)


def _session(leader: int) -> list[int]:
    """The living processes of a session."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _lives(pid) and _leader(pid) == leader]


def _leader(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[3]) if stat else 0


def _lives(pid: int) -> bool:
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def _stat(pid: int) -> list[str]:
    """State, parent, group, session …; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
