"""Locust replays real users against a gateway without replicas, and its exit code says what that is worth."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from catalogue.datasets import load
from contracts.topics import EVENTS, ITEMS, RELEASES
from gateway.app import create_app
from gateway.service import Gateway
from gateway.settings import GatewaySettings
from loadtest.slo import EXIT_BROKEN
from streams.broker import free_port
from streams.memory_log import MemoryEventLog, MemoryStore
from tests.integration.gateway.world import call, until


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway in a thread of this process, on a log in memory; popularity answers for everyone."""
    log = MemoryEventLog(MemoryStore({EVENTS: 4, ITEMS: 1, RELEASES: 1}))
    gateway = Gateway(GatewaySettings(replicas=("http://127.0.0.1:9",)), log, items=load("ml-100k").items)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(gateway), port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, "the gateway")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def locust(url: str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the last line."""
    command = [sys.executable, "-m", "slipstream.cli", "loadtest", "locust", "--url", url, "--users", "3"]
    command += ["--seconds", "3", "--think-seconds", "0.1", "--slo-p99-ms", "5000", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    assert lines, run.stderr
    return run.returncode, json.loads(lines[-1])


def test_lists_of_a_fallback_break_the_promise_unless_they_were_promised(url: str) -> None:
    code, result = locust(url)
    assert code == EXIT_BROKEN
    assert result["measured"]["requests"] > 5
    assert result["measured"]["fallback_ratio"] == 1.0
    assert result["measured"]["failure_ratio"] == 0.0  # histories were right and nothing seen was recommended
    assert len(result["missed"]) == 1
    code, result = locust(url, "--slo-fallback-ratio", "1")
    assert (code, result["missed"]) == (0, [])
    assert call("GET", f"{url}/livez").status == 200


def test_without_a_gateway_no_promise_is_kept() -> None:
    code, result = locust(f"http://127.0.0.1:{free_port()}")
    assert code == EXIT_BROKEN
    assert result["missed"]
