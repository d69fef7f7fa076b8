"""The launcher of a group of trainers and its children's lives."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

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
