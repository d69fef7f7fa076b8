"""A supervisor ends what it started, and notices what ended by itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slipstream.processes import ProcessDied, Supervisor


def _gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_process_that_ends_is_reported_with_its_log(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    process = supervisor.start("wrong", ["no-such-command"])
    process.popen.wait(30)
    with pytest.raises(ProcessDied, match=r"wrong ended with code 2[\s\S]*no-such-command"):
        supervisor.check()


def test_children_end_when_the_parent_is_killed_outright(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from slipstream.processes import Supervisor
print(Supervisor(Path({str(tmp_path)!r}), ["sleep"]).start("sleeper", ["600"]).popen.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert _gone(child)
