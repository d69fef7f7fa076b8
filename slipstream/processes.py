"""The processes a command starts: each with a log file, all ended with it, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streams.broker import die_with_parent


class ProcessDied(Exception):
    """A process ended that should be running; the text holds its exit code and the end of its log."""


@dataclass
class Process:
    """One child: its name, where it logs, and its handle."""

    name: str
    log: Path
    popen: subprocess.Popen[bytes]

    def check(self) -> None:
        """Raises ProcessDied when it has ended."""
        if (code := self.popen.poll()) is not None:
            raise ProcessDied(f"{self.name} ended with code {code}; the end of {self.log}:\n{tail(self.log)}")


class Supervisor:
    """Starts child processes and ends them in reverse order.

    Children are their own sessions, so that a Ctrl-C in the terminal reaches this process alone and it ends them in
    order; on Linux they also get SIGTERM when this process is killed outright.
    """

    def __init__(self, log_dir: Path, command: Sequence[str] = (sys.executable, "-m", "slipstream.cli")) -> None:
        self.log_dir = log_dir
        self.command = tuple(command)
        self.processes: list[Process] = []
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Process:
        """Start the command with `arguments` as `name`, logging to `NAME.log`."""
        log = self.log_dir / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGTERM),
            )
        process = Process(name, log, popen)
        self.processes.append(process)
        return process

    def check(self) -> None:
        """Raises ProcessDied for the first child that has ended."""
        for process in self.processes:
            process.check()

    def stop(self, process: Process, patience_seconds: float = 15.0) -> int:
        """SIGTERM, then SIGKILL to what is left of its session after `patience_seconds`; returns its exit code."""
        if process.popen.poll() is None:
            process.popen.terminate()
            try:
                process.popen.wait(patience_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.popen.pid, signal.SIGKILL)
                process.popen.wait()
        if process in self.processes:
            self.processes.remove(process)
        return process.popen.returncode

    def stop_all(self, patience_seconds: float = 15.0) -> None:
        """End every child, the last started first; they share the patience."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.terminate()
        deadline = time.monotonic() + patience_seconds
        for process in reversed(self.processes.copy()):
            self.stop(process, max(0.1, deadline - time.monotonic()))


def tail(path: Path, lines: int = 15) -> str:
    """The last `lines` lines of a log."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(text.splitlines()[-lines:])
